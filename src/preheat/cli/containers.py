"""``preheat check``, ``render`` and ``deploy`` for services of containers: Knative, Cloud Run, KServe."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import output
from ..errors import UsageError
from .deploy import check, deploy, render
from .root import Json

if TYPE_CHECKING:
    from ..deploy.container_spec import Options

Target = Annotated[str, typer.Argument(help="An artifact folder, a function's app.py, or STORE/NAME@WHICH.")]
Image = Annotated[str, typer.Option(metavar="IMAGE", help="The container image; a digest pins it.")]
Out = Annotated[str, typer.Option("-o", "--out", metavar="FILE", help="Where it goes; - prints it.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")]
Name = Annotated[str, typer.Option(help="Of the service. Default: the model's.")]
Namespace = Annotated[str, typer.Option(help="Default: where it is applied.")]
Cpu = Annotated[int, typer.Option(help="CPUs, and as many threads and turns.")]
Memory = Annotated[int | None, typer.Option(metavar="MIB", help="Default: what the model needs.")]
Concurrency = Annotated[
    int | None, typer.Option(help="Requests let in at once. Default: as many as --wait-ms takes.")
]
WaitMs = Annotated[float, typer.Option(help="How long a request may wait behind others in an instance.")]
Timeout = Annotated[int | None, typer.Option(metavar="SECONDS", help="Of a request. Default: as measured.")]
MinScale = Annotated[int, typer.Option(help="Instances that are always there.")]
MaxScale = Annotated[int, typer.Option(help="Instances at most; 0: any number.")]
ScaleTarget = Annotated[
    int | None, typer.Option(help="Requests in an instance that the autoscaler aims at. Default: all.")
]
InitialScale = Annotated[int, typer.Option(help="Instances that a new revision must bring up.")]
ScaleDownDelay = Annotated[int, typer.Option(metavar="SECONDS", help="Before instances are taken away.")]
Retention = Annotated[int, typer.Option(metavar="SECONDS", help="For which the last instance is kept.")]
ServiceAccount = Annotated[str, typer.Option(help="Whose rights it has (workload identity).")]
Ledger = Annotated[str, typer.Option(metavar="URL", help="PREHEAT_LEDGER, without a password in it.")]
LedgerSecret = Annotated[
    str,
    typer.Option(metavar="NAME[/KEY]", help="The secret with PREHEAT_LEDGER (Cloud Run: /VERSION)."),
]
StoreSecret = Annotated[str, typer.Option(metavar="NAME", help="A secret whose keys become variables.")]
Env = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable; repeatable.")]
Gpu = Annotated[int, typer.Option(help="GPUs (nvidia.com/gpu).")]
NodeSelector = Annotated[
    list[str] | None,
    typer.Option(metavar="LABEL=VALUE", help="Needs the flag kubernetes.podspec-nodeselector; repeatable."),
]
Pvc = Annotated[
    str,
    typer.Option(
        metavar="CLAIM[/PATH]",
        help="Read the artifact from a volume claim. Needs kubernetes.podspec-persistent-volume-claim.",
    ),
]
RuntimeClass = Annotated[
    str, typer.Option(metavar="NAME", help="Needs the flag kubernetes.podspec-runtimeclassname.")
]
StartupProbe = Annotated[
    str, typer.Option(metavar="KIND", help="http: the model answers; tcp: the socket is open.")
]


Only = frozenset[str]
UNNAMED = "image"
"""What stands for the image in a check, which asks nothing of it."""
NOT_CLOUD_RUN: Only = frozenset(
    {
        *("scale_target", "initial_scale", "scale_down_delay", "retention", "store_secret"),
        *("node_selector", "pvc", "runtime_class"),
    }
)
NOT_KNATIVE: Only = frozenset({"startup_probe"})
NOT_KSERVE: Only = NOT_KNATIVE | {"initial_scale", "scale_down_delay", "retention"}


def _options(
    image: Image,
    name: Name = "",
    namespace: Namespace = "",
    cpu: Cpu = 1,
    memory: Memory = None,
    concurrency: Concurrency = None,
    wait_ms: WaitMs = 100.0,
    timeout: Timeout = None,
    min_scale: MinScale = 0,
    max_scale: MaxScale = 10,
    scale_target: ScaleTarget = None,
    initial_scale: InitialScale = 1,
    scale_down_delay: ScaleDownDelay = 0,
    retention: Retention = 0,
    service_account: ServiceAccount = "",
    ledger: Ledger = "",
    ledger_secret: LedgerSecret = "",
    store_secret: StoreSecret = "",
    env: Env = None,
    gpu: Gpu = 0,
    node_selector: NodeSelector = None,
    pvc: Pvc = "",
    runtime_class: RuntimeClass = "",
    startup_probe: StartupProbe = "http",
) -> "Options":
    from ..deploy.container_spec import Options

    if startup_probe not in ("http", "tcp"):
        raise UsageError(f"--startup-probe must be http or tcp, not {startup_probe!r}")
    return Options(
        image=image,
        name=name,
        namespace=namespace,
        cpu=cpu,
        memory_mb=memory,
        concurrency=concurrency,
        timeout_s=timeout,
        min_scale=min_scale,
        max_scale=max_scale,
        target=scale_target,
        initial_scale=initial_scale,
        scale_down_delay_s=scale_down_delay,
        retention_s=retention,
        service_account=service_account,
        ledger=ledger,
        ledger_secret=ledger_secret,
        store_secret=store_secret,
        env=tuple(env or ()),
        gpu=gpu,
        node_selector=tuple(node_selector or ()),
        pvc=pvc,
        runtime_class=runtime_class,
        wait_ms=wait_ms,
        tcp_probe=startup_probe == "tcp",
    )


def _taking_options(without: Only) -> Callable[[Callable[..., int]], Callable[..., None]]:
    """Let a command take the options of a container, but for those that its platform has nothing for.

    Typer reads a command's parameters from its signature; so five commands share one list.
    """

    def taking(command: Callable[..., int]) -> Callable[..., None]:
        shared = inspect.signature(_options).parameters
        taken = [parameter for name, parameter in shared.items() if name not in without]
        own = list(inspect.signature(command).parameters.values())
        parameters = [p for p in (*own, *taken) if p.name != "options"]

        def run(**values: Any) -> None:
            given = {p.name: values.pop(p.name) for p in taken}
            options = _options(**{"image": UNNAMED, **given})
            raise typer.Exit(command(options=options, **values))

        run.__doc__ = command.__doc__
        # Those without a default come first, as in any signature.
        parameters.sort(key=lambda p: p.default is not inspect.Parameter.empty)
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return taking


@render.command("knative")
@_taking_options(NOT_KNATIVE)
def render_knative(target: Target, options: "Options", out: Out = output.STDOUT, force: Force = False) -> int:
    """Write a Knative Service: sizes from measurements, the probe that starts fastest."""
    from ..deploy.container_commands import render

    return render("knative", target, options, out=out, force=force)


@render.command("cloudrun")
@_taking_options(NOT_CLOUD_RUN)
def render_cloudrun(
    target: Target, options: "Options", out: Out = output.STDOUT, force: Force = False
) -> int:
    """Write a Cloud Run service: sizes from measurements, startup CPU boost and probe."""
    from ..deploy.container_commands import render

    return render("cloudrun", target, options, out=out, force=force)


@render.command("kserve")
@_taking_options(NOT_KSERVE)
def render_kserve(target: Target, options: "Options", out: Out = output.STDOUT, force: Force = False) -> int:
    """Write a KServe ServingRuntime and an InferenceService that uses it."""
    from ..deploy.container_commands import render

    return render("kserve", target, options, out=out, force=force)


@check.command("knative")
@_taking_options(NOT_KNATIVE | {"image"})
def check_knative(target: Target, options: "Options", as_json: Json = False) -> int:
    """Say what of a target will not work on Knative as `render knative` writes it, and what to change."""
    from ..deploy.container_commands import check

    return check("knative", target, options, as_json=as_json)


@check.command("cloudrun")
@_taking_options(NOT_CLOUD_RUN | {"image"})
def check_cloudrun(target: Target, options: "Options", as_json: Json = False) -> int:
    """Say what of a target will not work on Cloud Run, and what to change."""
    from ..deploy.container_commands import check

    return check("cloudrun", target, options, as_json=as_json)


@deploy.command("knative")
def deploy_knative(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `render knative` wrote, or one like it.")],
    namespace: Annotated[str, typer.Option(help="Default: the file's, else the context's.")] = "",
    context: Annotated[str | None, typer.Option(help="Of the kubeconfig. Default: the current one.")] = None,
    kubeconfig: Annotated[
        str | None, typer.Option(metavar="FILE", help="Default: KUBECONFIG, ~/.kube/config.")
    ] = None,
    ingress: Annotated[
        str, typer.Option(metavar="URL", help="Where to reach revisions, if their names do not resolve here.")
    ] = "",
    header: Annotated[
        list[str] | None, typer.Option(metavar="'NAME: VALUE'", help="Sent along; repeatable.")
    ] = None,
    request: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="JSON for POST /predict. Default: the recorded one in FILE."),
    ] = None,
    steps: Annotated[str, typer.Option(help="Percentages of the traffic.")] = "10,50,100",
    requests: Annotated[int, typer.Option(help="Sent to the new revision at each step.")] = 20,
    hold: Annotated[float, typer.Option(metavar="SECONDS", help="How long a step lasts.")] = 30.0,
    from_zero: Annotated[
        int, typer.Option(help="Starts from no instance to wait for and measure; each takes a minute or two.")
    ] = 0,
    max_error_rate: Annotated[float, typer.Option(help="Share of failed requests.")] = 0.01,
    max_cold_start_ms: Annotated[
        float | None, typer.Option(help="At p99. Default: what FILE says, from the measurements.")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="For a revision to get ready.")] = 600.0,
    force: Annotated[
        bool, typer.Option("--force", help="Take over fields that another manager wrote.")
    ] = False,
    dry_run: Annotated[
        str | None, typer.Option(metavar="server", help="Let the cluster look at it and keep nothing.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Roll a Knative Service out: apply, wait, judge it, move the traffic; or take it back."""
    from ..deploy import knative_commands

    try:
        percentages = [int(part) for part in steps.split(",")]
    except ValueError:
        percentages = []
    status = knative_commands.deploy(
        file,
        knative_commands.Where(kubeconfig, context, namespace, ingress, tuple(header or ())),
        knative_commands.Judge(request, max_error_rate, max_cold_start_ms),
        steps=percentages,
        requests=requests,
        hold_s=hold,
        from_zero=from_zero,
        timeout_s=timeout,
        force=force,
        dry_run=dry_run,
        as_json=as_json,
    )
    raise typer.Exit(status)
