#!/bin/sh
# Writes this folder's manifests; `make templates` runs it. Name your own image and secrets in copies of these.
set -eu
render="${PREHEAT:-preheat} render"
image=registry.example.com/preheat

$render knative functions/embed/app.py --image "$image/embed:cpu" --ledger-secret preheat-ledger \
  --service-account preheat --retention 60 -o knative/service.yaml
$render knative functions/embed/app.py --image "$image/embed:gpu" --ledger-secret preheat-ledger \
  --service-account preheat --gpu 1 --cpu 2 --retention 300 -o knative/service-gpu.yaml
$render cloudrun functions/embed/app.py --image "$image/embed:cpu" --ledger-secret preheat-ledger \
  --service-account preheat -o knative/cloudrun.yaml
$render cloudrun functions/embed/app.py --image "$image/embed:gpu" --ledger-secret preheat-ledger \
  --service-account preheat --gpu 1 --max-scale 3 -o knative/cloudrun-gpu.yaml
$render kserve functions/embed/app.py --image "$image/embed:cpu" --ledger-secret preheat-ledger \
  --service-account preheat -o knative/kserve.yaml
