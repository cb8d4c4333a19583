"""Compiles what a kernel's host code would launch, for a GPU that is not there."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}
CONSUMER_SHARED_BYTES = 101_376  # of GPUs of 8.6, 8.9 and 12.x
SHARED_BYTES = {"sm_80": 166_912, "sm_90": 232_448}  # that one program may have
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Compiled:
    """What the assembler said of a kernel."""

    name: str
    registers: int
    stack_bytes: int
    """More than 0: registers were spilled to memory."""
    shared_bytes: int
    instructions: str
    """Disassembly."""

    def count(self, instruction: str) -> int:
        return len(re.findall(rf"\b{re.escape(instruction)}\b", self.instructions))


def _tool(name: str, *arguments: str) -> str:
    command = [str(TOOLS / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compile_launch(
    kernel: Any, architecture: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> Compiled:
    """Compiles a launch as the just-in-time compiler would: pointers and sizes that are multiples
    of 16 are known to be.

    Args:
        kernel: a `triton.jit` function.
        architecture: such as `sm_90`.
        arguments: of the launch, in order; tensors may be on device `meta`.
        options: constants, `num_warps` and `num_stages`.
    """
    constants = {name: value for name, value in options.items() if name in kernel.arg_names}
    others = {name: value for name, value in options.items() if name not in constants}
    signature: dict[str, str] = dict.fromkeys(kernel.arg_names, "constexpr")
    attributes = {}
    names = [name for name in kernel.arg_names if name not in constants]
    for name, value in zip(names, arguments, strict=True):
        is_tensor = isinstance(value, torch.Tensor)
        if is_tensor:
            signature[name] = POINTERS[value.dtype]
        else:
            signature[name] = "i32" if isinstance(value, int) else "fp32"
        if is_tensor or (isinstance(value, int) and value % 16 == 0):
            attributes[(kernel.arg_names.index(name),)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(kernel, signature, constants, attributes)
    target = GPUTarget("cuda", int(architecture.removeprefix("sm_")), 32)
    compiled = triton.compile(source, target=target, options=others)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        instructions = _tool("nvdisasm", "-c", file.name)
    registers, stack = (int(re.search(rf"{x}:(\d+)", usage)[1]) for x in ("REG", "STACK"))
    name = kernel.fn.__name__
    return Compiled(name, registers, stack, compiled.metadata.shared, instructions)
