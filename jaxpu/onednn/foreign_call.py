"""Machine code that XLA calls on CPUs, to execute primitives of oneDNN.

XLA's foreign function interface calls a C function with the addresses of arguments and results (xla/ffi/api/c_api.h).  LLVM makes
it here: no compiler is needed, and unlike a function of Python it needs no interpreter, which other threads may hold for
milliseconds, and for which a program that is still running when Python ends would wait forever.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path

import jax
import llvmlite.binding as llvm
import llvmlite.ir as ir

WORD, STATUS = ir.IntType(64), ir.IntType(32)
WORD_BYTES = 8

# Members of C structures, by their position in words: they take one each, or are padded to it.
CALL_EXTENSION, CALL_API, CALL_ARGUMENTS, CALL_RESULTS = 1, 2, 9, 14
BUFFER_DATA = 3
EXTENSION_METADATA, METADATA_VERSION = 3, 3
API_CREATE_ERROR = 6
ERROR_WORDS, INTERNAL_ERROR = 4, 13
ARGUMENT_WORDS = 2
"""Of oneDNN's `dnnl_exec_arg_t`: a number, and a memory."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """A buffer of XLA as oneDNN sees it.

    Attributes:
        descriptor: address of its `dnnl_memory_desc`.
        number: among the results of the call, or its arguments.
        is_result: whether it is a result.
    """

    descriptor: int
    number: int
    is_result: bool = False


@dataclasses.dataclass(frozen=True)
class Execution:
    """A primitive to execute: its address, and its memories by the numbers that oneDNN gives to arguments."""

    primitive: int
    memories: dict[int, Memory]


@dataclasses.dataclass(frozen=True)
class Library:
    """Addresses of what oneDNN has: its engine, a stream, and the functions that handlers call."""

    engine: int
    stream: int
    memory_create: int
    memory_destroy: int
    primitive_execute: int


class Handler:
    """A compiled handler.

    Attributes:
        address: of its code, which is valid as long as this object lives.
    """

    def __init__(self, library: Library, executions: Sequence[Execution], name: str) -> None:
        """Compile it; it executes the primitives in order.  `name` is what errors call it."""
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine()
        module = llvm.parse_assembly(str(_Builder(library, name).build(executions)))
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        self.address: int = self._engine.get_function_address("handle")


class _Builder:
    """Writes the function `handle`.  Addresses are words, as constants or in registers."""

    def __init__(self, library: Library, name: str) -> None:
        self.library = library
        self.module = ir.Module()
        self.function = ir.Function(self.module, ir.FunctionType(WORD, [WORD]), "handle")
        self.builder = ir.IRBuilder(self.function.append_basic_block())
        message = bytearray(f"oneDNN failed in {name}.\0".encode())
        self.message = ir.GlobalVariable(self.module, ir.ArrayType(ir.IntType(8), len(message)), "message")
        self.message.initializer = ir.Constant(self.message.value_type, message)

    def build(self, executions: Sequence[Execution]) -> ir.Module:
        """The module, with its one function."""
        (call,) = self.function.args
        self._answer_registration(call)
        memories = list(dict.fromkeys(memory for execution in executions for memory in execution.memories.values()))
        handles = self._reserve(len(memories))
        for place, memory in enumerate(memories):
            self._unless_failed(call, self._create(call, memory, handles, place))
        for execution in executions:
            arguments = self._reserve(ARGUMENT_WORDS * len(execution.memories))
            for place, (number, memory) in enumerate(execution.memories.items()):
                self._store(_word(number), arguments, ARGUMENT_WORDS * place)
                self._store(self._load(handles, memories.index(memory)), arguments, ARGUMENT_WORDS * place + 1)
            count = ir.Constant(STATUS, len(execution.memories))
            primitive, stream = _word(execution.primitive), _word(self.library.stream)
            self._unless_failed(call, self._invoke(self.library.primitive_execute, primitive, stream, count, arguments))
        for place in range(len(memories)):
            self._invoke(self.library.memory_destroy, self._load(handles, place))
        self.builder.ret(_word(0))
        return self.module

    def _answer_registration(self, call: ir.Value) -> None:
        """Return at once where XLA registers the handler and asks for its version."""
        extension = self._load(call, CALL_EXTENSION)
        with self.builder.if_then(self.builder.icmp_unsigned("!=", extension, _word(0))):
            self._store(_word(interface_version()), self._load(extension, EXTENSION_METADATA), METADATA_VERSION)
            self.builder.ret(_word(0))

    def _create(self, call: ir.Value, memory: Memory, handles: ir.Value, place: int) -> ir.Value:
        buffers = self._load(call, CALL_RESULTS if memory.is_result else CALL_ARGUMENTS)
        data = self._load(self._load(buffers, memory.number), BUFFER_DATA)
        handle = self.builder.add(handles, _word(WORD_BYTES * place))
        return self._invoke(self.library.memory_create, handle, _word(memory.descriptor), _word(self.library.engine), data)

    def _unless_failed(self, call: ir.Value, status: ir.Value) -> None:
        """Return an error to XLA if a function of oneDNN returned one.  The memories, some hundred bytes, are not freed."""
        with self.builder.if_then(self.builder.icmp_unsigned("!=", status, ir.Constant(STATUS, 0)), likely=False):
            error = self._reserve(ERROR_WORDS)
            message = self.builder.ptrtoint(self.message, WORD)
            for place, word in enumerate((_word(WORD_BYTES * ERROR_WORDS), _word(0), message, _word(INTERNAL_ERROR))):
                self._store(word, error, place)
            create_error = self._load(self._load(call, CALL_API), API_CREATE_ERROR)
            self.builder.ret(self._invoke(create_error, error, returns=WORD))

    def _load(self, address: ir.Value, position: int) -> ir.Value:
        return self.builder.load(self._member(address, position))

    def _store(self, value: ir.Value, address: ir.Value, position: int) -> None:
        self.builder.store(value, self._member(address, position))

    def _member(self, address: ir.Value, position: int) -> ir.Value:
        return self.builder.inttoptr(self.builder.add(address, _word(WORD_BYTES * position)), WORD.as_pointer())

    def _reserve(self, words: int) -> ir.Value:
        return self.builder.ptrtoint(self.builder.alloca(WORD, words), WORD)

    def _invoke(self, function: int | ir.Value, *arguments: ir.Value, returns: ir.Type = STATUS) -> ir.Value:
        signature = ir.FunctionType(returns, [argument.type for argument in arguments])
        address = _word(function) if isinstance(function, int) else function
        return self.builder.call(self.builder.inttoptr(address, signature.as_pointer()), arguments)


@functools.cache
def interface_version() -> int:
    """Of XLA's interface, as it is installed: the major version in the lower half of the word, the minor one in the upper half.

    Raises:
        ImportError: it is another major version than 0, in which members are only added to structures.
    """
    header = (Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h").read_text(encoding="utf-8")
    major, minor = (int(number) for number in re.findall(r"#define XLA_FFI_API_M(?:AJ|IN)OR (\d+)", header))
    if major:
        raise ImportError(f"XLA's foreign function interface has version {major}.{minor}, and jaxpu knows 0 alone")
    return minor << 32


def _word(number: int) -> ir.Constant:
    return ir.Constant(WORD, number)
