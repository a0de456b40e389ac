"""What tensorrt 10 and 11, which are not here, are asked for when they build: against a stand-in for both."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from visdeploy.engines.tensorrt_compile import Options, compile_graph
from visdeploy.engines.tensorrt_library import Library
from visdeploy.errors import EngineError, UnsupportedError


class FakeTensorRt:
    """What tensorrt 10 and 11 offer to who builds, with other integers in their enumerations."""

    def __init__(self, major: int, **behaviour: Any) -> None:
        self.said: list[Any] = []
        said, self.__version__ = self.said, f"{major}.1"
        flags = {"TF32": 7 - major // 11, "VERSION_COMPATIBLE": 13 - major // 11}
        self.BuilderFlag = SimpleNamespace(**flags)
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1 if major == 10 else 0)
        levels = {"NONE": 0, "AMPERE_PLUS": 1} | ({"SAME_COMPUTE_CAPABILITY": 2} if major == 11 else {})
        self.HardwareCompatibilityLevel = SimpleNamespace(**levels)
        self.IProgressMonitor = type("IProgressMonitor", (), {})
        log = self.ILogger = type("ILogger", (), {"Severity": SimpleNamespace(ERROR=1, INTERNAL_ERROR=0, INFO=3)})
        tensor = SimpleNamespace(name="images", dtype="DataType.UINT8", shape=(-1, 64, 64, 3))

        class Config:
            def __setattr__(self, name: str, value: Any) -> None:
                said.append((name, value) if name != "progress_monitor" else name)

            def __getattr__(self, name: str) -> Any:
                def call(*arguments: Any) -> Any:
                    said.append((name, *arguments))
                    return behaviour.get(name, lambda *_: 0)(*arguments)

                return call

        class Builder:
            def __init__(self, log: Any) -> None:
                self.log = log

            def create_network(self, flags: int) -> Any:
                said.append(("create_network", flags))
                return SimpleNamespace(
                    num_inputs=1, num_outputs=1, get_input=lambda i: tensor, get_output=lambda i: tensor
                )

            def create_builder_config(self) -> Any:
                return Config()

            def create_optimization_profile(self) -> Any:
                return SimpleNamespace(set_shape=lambda *shapes: said.append(("set_shape", *shapes)))

            def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
                if "fails" in behaviour:
                    self.log.log(log.Severity.INFO, "not this")  # type: ignore[attr-defined]
                    self.log.log(log.Severity.ERROR, behaviour["fails"])  # type: ignore[attr-defined]
                    return None
                return b"plan"

        self.Builder = Builder
        self.OnnxParser = lambda network, log: SimpleNamespace(parse=lambda graph: True)


def compile_with(module: FakeTensorRt, timing: bytes = b"", **options: Any) -> Any:
    asked = Options("tensorrt", "fp32", ((1, 8, 8, 3), (4, 8, 8, 3), (8, 8, 8, 3)))
    library = Library("tensorrt", module.__version__, module)
    return compile_graph(library, b"graph", replace(asked, **options), lambda phase, done: None, timing)


TIMING = {
    "create_timing_cache": lambda data: f"cache of {data.decode()}",
    "set_timing_cache": lambda cache, mismatch: True,
    "get_timing_cache": lambda: SimpleNamespace(serialize=lambda: b"measured"),
}


@pytest.mark.parametrize("major", [10, 11])
def test_tensorrt_types_strongly_without_tf32_and_by_name(major: int) -> None:
    module = FakeTensorRt(major, **TIMING)
    plan, facts, timing = compile_with(module, b"earlier", version_compatible=True, hardware_compatible="ampere+")
    assert (plan, timing, facts["library_version"]) == (b"plan", b"measured", f"{major}.1")
    assert facts["inputs"][0]["profiles"] == [{"min": [1, 64, 64, 3], "opt": [4, 64, 64, 3], "max": [8, 64, 64, 3]}]
    assert ("create_network", 1 << module.NetworkDefinitionCreationFlag.STRONGLY_TYPED) in module.said
    assert ("clear_flag", module.BuilderFlag.TF32) in module.said
    assert ("set_flag", module.BuilderFlag.VERSION_COMPATIBLE) in module.said
    assert ("hardware_compatibility_level", 1) in module.said
    assert ("set_shape", "images", (1, 64, 64, 3), (4, 64, 64, 3), (8, 64, 64, 3)) in module.said
    assert ("set_timing_cache", "cache of earlier", False) in module.said


def test_tf32_stays_where_the_graph_has_lower_precision() -> None:
    module = FakeTensorRt(11, **TIMING)
    compile_with(module, precision="int8")
    assert not [said for said in module.said if said[0] == "clear_flag"]


def test_timing_of_another_version_is_left_out() -> None:
    module = FakeTensorRt(11, **TIMING | {"set_timing_cache": lambda cache, mismatch: cache == "cache of "})
    compile_with(module, b"of another version")
    assert [said[1] for said in module.said if said[0] == "set_timing_cache"] == [
        "cache of of another version",
        "cache of ",
    ]


@pytest.mark.parametrize(
    ("behaviour", "options", "error", "message"),
    [
        ({}, {"compute_capabilities": ("8.9",)}, UnsupportedError, "builds for the GPU that it runs on.*tensorrt-rtx"),
        ({}, {"hardware_compatible": "same"}, UnsupportedError, "knows no hardware compatibility SAME_COMPUTE"),
        ({"add_optimization_profile": lambda p: -1}, {}, EngineError, r"the profile \[.*\] was refused"),
        ({"fails": "no\nroom"}, {}, EngineError, "^no room$"),
    ],
)
def test_tensorrt_refuses_in_one_sentence(
    behaviour: dict[str, Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        compile_with(FakeTensorRt(10, **TIMING | behaviour), **options)
