from typing import Any

def kernels() -> dict[str, list[tuple[str, str]]]: ...
def spans(kernel: str) -> dict[str, str]: ...
def family(kernel: str) -> str: ...
def symbols() -> dict[str, int]: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def use_isa(name: str | None) -> None: ...
def run_time(
    kernel: str,
    args: tuple[Any, ...],
    axis: int,
    out: Any,
    optional: bool,
    checked: bool,
    layout: tuple[Any, ...] | None = None,
) -> Any: ...
def number_keys(keys: Any) -> tuple[Any, int]: ...
def run_rows(kernel: str, args: tuple[Any, ...], out: Any) -> Any: ...
def threads() -> int: ...
def set_threads(n: int) -> None: ...
def policy_loss(
    loss: str,
    options: dict[str, Any],
    kl: tuple[Any, ...],
    arrays: tuple[Any, ...],
    grad: Any,
    offsets: Any,
    length: int,
) -> dict[str, float]: ...
def kl_estimate(kl: tuple[Any, ...], bound: float, arrays: tuple[Any, ...], value: Any, grad: Any) -> None: ...
def moments(x: Any, mask: Any, weight: Any, state: tuple[float, float, float]) -> tuple[float, float, float]: ...
def row_moments(x: Any, mask: Any, weight: Any, rows: int, out: Any) -> None: ...
def whiten(x: Any, mask: Any, mean: Any, by: Any, divide: bool, out: Any) -> None: ...

PPO_ACTIONS: int
NET_WIDEST: int
NET_MOST_LAYERS: int
NET_FORWARD: int

def net_sizes(shape: Any, parameter: Any, rows: int) -> tuple[int, int, int]: ...
def net_pack(shape: Any, parameter: Any, packed: Any) -> None: ...
def net_forward(shape: Any, packed: Any, x: Any, hidden: Any, y: Any) -> None: ...
def net_backward(
    shape: Any, packed: Any, x: Any, hidden: Any, grad_y: Any, room: Any, grad: Any, grad_x: Any
) -> None: ...
def ppo_epoch(
    policy: tuple[Any, ...],
    value: tuple[Any, ...],
    policy_adam: tuple[float, float, float, float, int],
    value_adam: tuple[float, float, float, float, int],
    minibatch: int,
    index: Any,
    observation: Any,
    action: Any,
    log_prob: Any,
    advantage: Any,
    target: Any,
    gaussian: bool,
    clip: float,
    entropy_weight: float,
    max_norm: float,
    target_kl: float,
) -> tuple[tuple[float, ...], tuple[float, ...], int]: ...
def adam(
    grad: Any,
    scale: float,
    beta1: float,
    beta2: float,
    eps: float,
    rate: float,
    correction: float,
    m: Any,
    v: Any,
    parameter: Any,
) -> None: ...
