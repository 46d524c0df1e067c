#!/bin/sh
# Writes this folder's manifests anew; `make templates` runs it. Copy a line for a service of your own.
set -eu
render="${PREHEAT:-preheat} render"
image=registry.example.com/preheat

$render knative functions/embed/app.py --image "$image/embed:cpu" --ledger-secret preheat-ledger \
  --service-account preheat --retention 60 --force -o knative/service.yaml
$render knative functions/embed/app.py --image "$image/embed:gpu" --ledger-secret preheat-ledger \
  --service-account preheat --gpu 1 --cpu 2 --retention 300 --force -o knative/service-gpu.yaml
$render cloudrun functions/embed/app.py --image "$image/embed:cpu" --ledger-secret preheat-ledger \
  --service-account preheat --force -o knative/cloudrun.yaml
$render cloudrun functions/embed/app.py --image "$image/embed:gpu" --ledger-secret preheat-ledger \
  --service-account preheat --gpu 1 --max-scale 3 --force -o knative/cloudrun-gpu.yaml
$render kserve functions/embed/app.py --image "$image/embed:cpu" --ledger-secret preheat-ledger \
  --service-account preheat --force -o knative/kserve.yaml
