"""onnxruntime's execution providers by name, and which an instance would rather have. Imports nothing."""

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

NAMES = {"tensorrt": TENSORRT, "cuda": CUDA, "cpu": CPU}
"""Short names, as people give them."""

NVIDIA = (TENSORRT, CUDA)
"""Those that need a GPU of NVIDIA's, with its driver."""

DRIVER = ("/dev/nvidiactl", "/dev/dxg")
"""One of these is there where their driver is: Linux, and Linux under Windows."""

CAPTURE = {CUDA: "enable_cuda_graph", TENSORRT: "trt_cuda_graph_enable"}
"""The option by which a provider records its kernels once, as a CUDA graph, and replays them."""


def full_name(name: str) -> str:
    """onnxruntime's name of a provider, from that or from a short one."""
    return NAMES.get(name, name)


def preference(name: str) -> int:
    """Lower is better: TensorRT, CUDA, then any other, the CPU last."""
    order = (TENSORRT, CUDA)
    return order.index(name) if name in order else len(order) + (name == CPU)


def chain(name: str) -> list[str]:
    """A provider, and those that take the nodes that it leaves."""
    return [*dict.fromkeys((name, *([CUDA] if name == TENSORRT else []), CPU))]
