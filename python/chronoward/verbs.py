"""Packages that carry a verb's name can be called: `chronoward.score(run, …)` works whether or not
a module of `chronoward.score` was imported before (which puts the package under that name)."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        verb = getattr(self, self.__name__.rpartition(".")[2])
        return verb(*args, **options)


def make_callable(package: str) -> None:
    """Makes a call of the package a call of its function of the same name.

    Args:
        package: `__name__` of a package or module that is being imported.
    """
    sys.modules[package].__class__ = _CallablePackage
