"""How packages show their names: loaded with first use; called, where a verb has their name."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        verb = getattr(self, self.__name__.rpartition(".")[2])
        return verb(*args, **options)


def make_callable(package: str) -> None:
    """Makes a call of the package a call of its function of the same name: `chronoward.score(run,
    …)` works whether or not a module of `chronoward.score` was imported before (which puts the
    package under that name).

    Args:
        package: `__name__` of a package or module that is being imported.
    """
    sys.modules[package].__class__ = _CallablePackage


def on_first_use(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562): heavy libraries load with the first name that needs one.

    Args:
        package: `__name__` of the package.
        homes: public name -> module that defines it.
    """

    def find(name: str) -> Any:
        if name not in homes:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message)
        return getattr(import_module(homes[name]), name)

    return find
