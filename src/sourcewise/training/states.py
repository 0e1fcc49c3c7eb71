"""Whether the tensors in a file are the state of a network."""

from collections.abc import Callable, Mapping

from torch import Tensor


def misfit(network: Mapping[str, Tensor], file: Mapping[str, Tensor], form: Callable[[Tensor], str]) -> str:
    """Return a line that names the first tensor of another form in the file than in the network; "" if there is none.

    form: what has to be alike, such as `float32[2, 3]`.

    >>> import torch
    >>> misfit({"a": torch.zeros(2)}, {"b": torch.zeros(3)}, lambda value: str(list(value.shape)))
    'the tensor a is not there, and [2] in this model'
    """
    for name in [*network, *sorted(file.keys() - network.keys())]:
        in_model, in_file = (form(state[name]) if name in state else "not" for state in (network, file))
        if in_model != in_file:
            return f"the tensor {name} is {in_file} there, and {in_model} in this model"
    return ""
