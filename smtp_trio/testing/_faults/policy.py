"""`Policy`: a policy of `smtp_trio.policies` as a value, which can be listed, and creates the policy when needed."""

from __future__ import annotations

import inspect
from typing import Any

from attrs import field, frozen

from ...policies._layer import Layer
from ...protocol.arguments import check_type


@frozen(init=False, repr=False)
class Policy:
    """A policy of a receiver, for `FaultRules`: ``Policy(Greylist, seconds=60)``.

    :param layer: a class of `smtp_trio.policies`.
    :param arguments: the arguments of the class, except for the hooks. They are checked immediately.
    :raises TypeError: ``layer`` is not a policy, or an argument has a wrong name or type.
    :raises ValueError: an argument has a wrong value.
    """

    layer: type[Layer]
    _arguments: tuple[tuple[str, Any], ...] = field()

    def __init__(self, layer: type[Layer], **arguments: Any) -> None:
        check_type(layer, "layer", type)
        if not issubclass(layer, Layer):
            raise TypeError(f"layer must be a class of smtp_trio.policies, got {layer.__name__}")
        layer(None, **arguments)
        defaults = defaults_of(layer)
        given = {name: value for name, value in arguments.items() if value != defaults[name]}
        self.__attrs_init__(layer, tuple(sorted(given.items())))

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that differ from their defaults."""
        return dict(self._arguments)

    def get(self, name: str) -> Any:  # noqa: ANN401  (the argument of any policy)
        """Return the value of an argument."""
        return self.arguments.get(name, defaults_of(self.layer)[name])

    def make(self) -> Layer:
        """Return a new layer without inner hooks."""
        return self.layer(None, **self.arguments)

    def __repr__(self) -> str:
        given = "".join(f", {name}={value!r}" for name, value in self._arguments)
        return f"Policy({self.layer.__name__}{given})"


def defaults_of(layer: type[Layer]) -> dict[str, Any]:
    """Return the arguments of a policy, except for the hooks, with their defaults."""
    found = {each.name: each.default for each in inspect.signature(layer).parameters.values()}
    found.pop("hooks")
    return found
