"""How engines are run, against a stand-in that records the calls and computes: nothing here has seen a GPU."""

import ctypes
import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cuda_arrays
import tensorrt_standin as standin
from stub import predictor
from tensorrt_standin import LARGE, SMALL, check, images
from visdeploy import engines, mask, ops
from visdeploy.bundle import Bundle
from visdeploy.engines import cuda, open_engine, tensorrt_run
from visdeploy.engines.tensorrt_library import open_library
from visdeploy.engines.tensorrt_run import CONTEXTS, GRAPHS, TensorRtEngine
from visdeploy.errors import CudaError, EngineError, InputError, MissingDependencyError
from visdeploy.predictor import Predictor


@pytest.fixture
def engine(library: str, cudart: standin.Cudart) -> Iterator[TensorRtEngine]:
    opened = TensorRtEngine(open_library(library), standin.plan(), "fp32")
    yield opened
    opened.close()
    assert cudart.live() == dict.fromkeys(("streams", "memory", "graphs", "executables"), 0)


def contexts(engine: TensorRtEngine) -> list[standin.Context]:
    return engine._engine.contexts  # type: ignore[no-any-return]


def test_copy_network_copy_wait_in_this_order_on_one_stream(engine: TensorRtEngine, cudart: standin.Cudart) -> None:
    check(engine, images(SMALL))
    interesting = ("cudaStreamCreateWithFlags", "cudaMemcpyAsync", "execute_async_v3", "cudaStreamSynchronize")
    assert [name for name in cudart.names() if name in interesting] == [
        "cudaStreamCreateWithFlags",
        "cudaMemcpyAsync",
        "execute_async_v3",
        "cudaMemcpyAsync",
        "cudaStreamSynchronize",
    ]
    names = cudart.names()
    bound = [names.index(name) for name in ("set_input_shape", "set_tensor_address")]
    assert max(bound) < names.index("execute_async_v3")
    copies = [call for call in cudart.calls if call[0] == "cudaMemcpyAsync"]
    assert [call[4] for call in copies] == ["to device", "to host"]
    assert [cudart.memory[call[address]][0] for call in copies for address in (1, 2)] == [
        *("device", "host"),
        *("host", "device"),
    ]


def test_steady_state_allocates_nothing(engine: TensorRtEngine, cudart: standin.Cudart) -> None:
    for seed in range(3):
        check(engine, images(LARGE, seed))
    before = cudart.names().count("cudaMalloc"), cudart.names().count("cudaMallocHost")
    for seed in range(5):
        check(engine, images(LARGE, seed))
        check(engine, images(SMALL, seed))
    assert (cudart.names().count("cudaMalloc"), cudart.names().count("cudaMallocHost")) == before == (2, 2)
    assert len(contexts(engine)) == 1


@pytest.mark.parametrize("library", ["tensorrt"], indirect=True)
def test_graph_is_captured_the_second_time_and_launched_from_then_on(
    engine: TensorRtEngine, cudart: standin.Cudart
) -> None:
    for seed in range(5):
        check(engine, images(SMALL, seed))
    names = cudart.names()
    assert names.count("cudaStreamBeginCapture") == names.count("cudaGraphInstantiate") == 1
    assert names.count("execute_async_v3") == 3
    assert names.count("cudaGraphLaunch") == 3
    # Of the second call: the network runs for its answer first, and is captured after.
    second = names[names.index("cudaStreamSynchronize") + 1 :]
    assert second.index("execute_async_v3") < second.index("cudaStreamBeginCapture")


@pytest.mark.parametrize("library", ["tensorrt"], indirect=True)
def test_graphs_of_the_shapes_used_last_are_kept(engine: TensorRtEngine, cudart: standin.Cudart) -> None:
    shapes = [(1, 10, 10 + k, 3) for k in range(GRAPHS + 1)]
    check(engine, images((1, 32, 32, 3)))  # so that memory grows no more, which would discard graphs
    for shape in shapes[:-1]:
        check(engine, images(shape))
        check(engine, images(shape))
    assert len(cudart.executables) == GRAPHS
    check(engine, images(shapes[0]))  # is used last now
    check(engine, images(shapes[-1]))  # seen once: takes the place of the second
    assert len(cudart.executables) == GRAPHS - 1
    launched = cudart.names().count("cudaGraphLaunch")
    check(engine, images(shapes[0]))
    assert cudart.names().count("cudaGraphLaunch") == launched + 1
    check(engine, images(shapes[1]))
    assert cudart.names().count("cudaGraphLaunch") == launched + 1


@pytest.mark.parametrize("library", ["tensorrt"], indirect=True)
def test_growing_memory_discards_graphs_of_the_old_addresses(engine: TensorRtEngine, cudart: standin.Cudart) -> None:
    for shape in (SMALL, SMALL, SMALL, LARGE, SMALL, SMALL, SMALL, LARGE, LARGE, LARGE):
        check(engine, images(shape, len(cudart.calls)))
    assert cudart.names().count("cudaStreamBeginCapture") == 3


@pytest.mark.parametrize("library", ["tensorrt_rtx"], indirect=True)
def test_rtx_captures_graphs_itself(engine: TensorRtEngine, cudart: standin.Cudart) -> None:
    for seed in range(3):
        check(engine, images(SMALL, seed))
    assert "cudaStreamBeginCapture" not in cudart.names()
    assert contexts(engine)[0].config.cuda_graph_strategy == "WHOLE_GRAPH_CAPTURE"


@pytest.mark.parametrize("name", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
@pytest.mark.parametrize("library", ["tensorrt"], indirect=True)
def test_network_that_cannot_be_captured_runs_without(
    engine: TensorRtEngine, cudart: standin.Cudart, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    cudart.failing[name] = 0
    with caplog.at_level(logging.WARNING):
        for seed in range(4):
            check(engine, images(SMALL, seed))
    assert [record.getMessage() for record in caplog.records] == [
        f"tensorrt: this network runs without CUDA graphs ({name} failed: out of memory)"
    ]
    assert cudart.names().count("cudaStreamBeginCapture") == 1


def test_threads_share_a_bounded_pool_and_never_a_context(engine: TensorRtEngine, cudart: standin.Cudart) -> None:
    shapes = [SMALL, LARGE, (3, 5, 5, 3)]
    with ThreadPoolExecutor(8) as pool:  # the stand-in objects to two threads in one context
        list(pool.map(lambda k: check(engine, images(shapes[k % 3], k)), range(120)))
    assert 1 < len(contexts(engine)) <= CONTEXTS
    of_context: dict[int, set[int]] = {}
    for call in cudart.calls:
        if call[0] == "execute_async_v3":
            of_context.setdefault(call[2], set()).add(call[1])
    assert all(len(streams) == 1 for streams in of_context.values())
    assert len(set.union(*of_context.values())) == len(of_context)


def test_waits_for_a_lane_when_all_are_taken(engine: TensorRtEngine) -> None:
    held = [engine.infer_on_device(images(SMALL)) for _ in range(CONTEXTS)]
    for lane in held:
        lane.__enter__()
    done = threading.Event()
    thread = threading.Thread(target=lambda: (check(engine, images(SMALL)), done.set()))
    thread.start()
    assert not done.wait(0.05)
    held[0].__exit__(None, None, None)
    assert done.wait(10)
    thread.join()
    for lane in held[1:]:
        lane.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("cudaStreamCreateWithFlags", "cudaStreamCreateWithFlags failed: out of memory"),
        ("cudaMalloc", "cudaMalloc failed: out of memory"),
        ("cudaMallocHost", "cudaMallocHost failed: out of memory"),
        ("cudaMemcpyAsync", "cudaMemcpyAsync failed: out of memory"),
        ("cudaStreamSynchronize", "cudaStreamSynchronize failed: out of memory"),
        ("execute_async_v3", "the network could not be started"),
        ("create_execution_context", "no execution context could be made"),
    ],
)
def test_error_on_the_way_leaves_the_pool_whole(
    engine: TensorRtEngine, cudart: standin.Cudart, name: str, error: str
) -> None:
    creating = name in ("cudaStreamCreateWithFlags", "create_execution_context")
    if not creating:
        check(engine, images(SMALL))
        check(engine, images(SMALL))
    for succeeding in (0, 1) if name.startswith("cudaM") else (0,):
        for _ in range(CONTEXTS + 1):
            cudart.failing[name] = succeeding
            with pytest.raises(EngineError, match=error):
                engine.infer(images(LARGE))
            del cudart.failing[name]
    for shape in (SMALL, LARGE, SMALL):
        check(engine, images(shape))
    assert engine._free.qsize() == CONTEXTS


def test_caller_s_exception_inside_the_block_leaves_the_pool_whole(engine: TensorRtEngine) -> None:
    for _ in range(CONTEXTS + 1):
        with pytest.raises(ZeroDivisionError), engine.infer_on_device(images(SMALL)):
            raise ZeroDivisionError
    check(engine, images(SMALL))


def test_shape_outside_the_profile_is_refused_before_anything_is_touched(
    engine: TensorRtEngine, cudart: standin.Cudart
) -> None:
    for shape in ((9, 8, 8, 3), (1, 129, 8, 3), (0, 8, 8, 3), (8, 8, 3)):
        with pytest.raises(InputError, match=r"prepared for images from \(1, 1, 1, 3\) to \(8, 128, 128, 3\), got"):
            engine.infer(np.zeros(shape, np.uint8))
    assert not contexts(engine)


def test_closed_engine_says_so_and_can_be_closed_again(library: str) -> None:
    engine = TensorRtEngine(open_library(library), standin.plan(), "fp32")
    check(engine, images(SMALL))
    engine.close()
    with pytest.raises(EngineError, match="the engine was closed"):
        engine.infer(images(SMALL))
    engine.close()


def test_closing_waits_for_calls_that_run(library: str, cudart: standin.Cudart) -> None:
    engine = TensorRtEngine(open_library(library), standin.plan(), "fp32")
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(engine.infer, images(SMALL, k)) for k in range(40)]
        engine.close()
        outcomes = [future.exception() for future in running]
    assert all(error is None or "the engine was closed" in str(error) for error in outcomes)
    assert sum(cudart.live().values()) == 0


def test_works_on_its_own_device_whatever_the_thread_has_chosen(library: str, cudart: standin.Cudart) -> None:
    cudart.device.index = 3
    engine = TensorRtEngine(open_library(library), standin.plan(), "fp32")
    check(engine, images(SMALL))
    with pytest.raises(ZeroDivisionError), engine.infer_on_device(images(SMALL)):
        raise ZeroDivisionError
    check(engine, images(SMALL))
    engine.close()
    chosen = [call[1] for call in cudart.calls if call[0] == "cudaSetDevice"]
    assert chosen == [0, 3] * 5
    frees = [k for k, call in enumerate(cudart.calls) if call[0] in ("cudaFree", "cudaStreamDestroy")]
    before = [[call[1] for call in cudart.calls[:k] if call[0] == "cudaSetDevice"][-1] for k in frees]
    assert set(before) == {0}


def test_engine_of_one_shape_takes_that_alone(library: str) -> None:
    engine = TensorRtEngine(open_library(library), standin.plan(shape=list(SMALL)), "fp32")
    check(engine, images(SMALL))
    with pytest.raises(InputError, match=r"prepared for images from \(1, 4, 6, 3\) to \(1, 4, 6, 3\), got"):
        engine.infer(images(LARGE))
    engine.close()


def test_device_view_is_the_answer_where_it_lies(engine: TensorRtEngine, cudart: standin.Cudart) -> None:
    batch = images((2, 4, 6, 3))
    with engine.infer_on_device(batch) as logits:
        assert not any(stream.work for stream in cudart.streams.values())
        assert (logits.shape, len(logits), logits.__dlpack_device__()) == ((2, 1, 4, 6), 2, (2, 0))
        view = logits[1][:, :3, 2:]
        assert view.shape == (1, 3, 4)
        np.testing.assert_array_equal(view.numpy(), standin.network(batch)[1, :1, :3, 2:])
        interface = view.__cuda_array_interface__
        assert interface["stream"] in cudart.streams
        assert (interface["typestr"], interface["strides"]) == ("<f4", (96, 24, 4))
        assert interface["data"][0] == logits.__cuda_array_interface__["data"][0] + 96 + 8
        capsule = view.__dlpack__(stream=1)
        tensor = cuda_arrays.tensor_in(capsule)
        assert (tensor.device_type, tensor.device_id, tensor.data) == (2, 0, interface["data"][0])
        assert ([*tensor.shape[:3]], [*tensor.strides[:3]]) == ([1, 3, 4], [24, 6, 1])
        with pytest.raises(TypeError, match="expected integers and slices, got list"):
            logits[[0, 1]]


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch, cudart: standin.Cudart, shim: ctypes.CDLL) -> standin.Cudart:
    """The stand-in with memory and streams that the kernels executed on the CPU can use."""

    def new_stream() -> int:
        handle = ctypes.c_void_p()
        assert shim.cudaStreamCreateWithFlags(ctypes.byref(handle), 1) == 0
        assert handle.value
        return handle.value

    standin.install(monkeypatch, cudart)
    cudart.eager, cudart.new_stream = True, new_stream
    cudart.on_malloc = lambda address, size: shim.shim_register_device_memory(
        ctypes.c_void_p(address), ctypes.c_size_t(size), 0
    )
    cudart.on_free = lambda address: shim.shim_unregister_device_memory(ctypes.c_void_p(address))
    monkeypatch.setattr(tensorrt_run, "cuda_status", lambda: ("13.0", "here"))
    return cudart


@cuda_arrays.NEEDS_KERNELS
def test_mask_kernels_take_the_answer_from_the_device(
    emulated: standin.Cudart, shim: ctypes.CDLL, photos: list[NDArray[np.uint8]]
) -> None:
    engine = TensorRtEngine(open_library("tensorrt"), standin.plan(channels=3), "fp32")
    assert engine.on_device
    pixels = photos[0][None, :64, :96]
    expected = standin.network(pixels)[0]
    with engine.infer_on_device(pixels) as logits:
        rle = mask.encode_logits(logits[0, 1, :60], (75, 101))
        classes, areas, rles = ops.semantic_map(logits[0, :, :60, :90], (75, 101))
        streams = {line.split()[1] for line in shim.shim_calls().splitlines() if b"Launch" in line}
        assert streams == {hex(stream).encode() for stream in emulated.streams}
    engine.close()
    assert rle == mask.encode_logits(expected[1, :60], (75, 101))
    same = ops.semantic_map(np.ascontiguousarray(expected[:, :60, :90]), (75, 101))
    np.testing.assert_array_equal(classes.numpy(), same[0])
    np.testing.assert_array_equal(areas.numpy(), same[1])
    assert rles == same[2]


@cuda_arrays.NEEDS_KERNELS
@pytest.mark.parametrize("labels", [["car"], ["road", "car", "tree"]])
@pytest.mark.parametrize("resize", ["stretch", "letterbox", "tile"])
def test_predictor_finds_masks_where_the_answer_lies(
    emulated: standin.Cudart, shim: ctypes.CDLL, photos: list[NDArray[np.uint8]], labels: list[str], resize: str
) -> None:
    with_stub = predictor(labels=labels, resize=resize)
    channels = 1 if len(labels) == 1 else 3
    engine = TensorRtEngine(open_library("tensorrt"), standin.plan(channels=channels), "fp32")
    with Predictor(Bundle(Path("car.vdz"), with_stub.spec, {}), engine) as there:
        for answer, expected in zip(there.stream(photos, batch_size=2), with_stub.stream(photos), strict=True):
            assert answer.error is None
            assert answer.masks.rle
            assert answer.masks.rle == expected.masks.rle
            np.testing.assert_array_equal(answer.masks.labels, expected.masks.labels)
            if resize != "tile":
                np.testing.assert_array_equal(answer.masks.probability(), expected.masks.probability())
    assert (b"Launch" in shim.shim_calls()) == (resize != "tile")


@pytest.mark.parametrize(
    ("facts", "message"),
    [({"dtype": "BF16"}, "expected an engine with one uint8 input"), ({"version": "9"}, "of ver")],
)
def test_plan_that_does_not_fit_is_refused(library: str, facts: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        TensorRtEngine(open_library(library), standin.plan(**facts), "fp32")


def reason() -> str:
    (entry,) = [entry for entry in engines.status() if entry.name == "tensorrt"]
    assert entry.version is None
    return entry.reason


def test_status_says_what_is_missing(
    library: str, cudart: standin.Cudart, monkeypatch: pytest.MonkeyPatch, classes_bundle: Path
) -> None:
    assert next(entry.name for entry in engines.status() if entry.version) == "tensorrt"
    monkeypatch.setattr(standin.Cudart, "cudaGetDeviceCount", lambda self: 0)
    assert reason().endswith("the CUDA driver finds no device")
    cudart.failing["cudaGetDeviceCount"] = 0
    assert reason().endswith("the CUDA driver does not work: cudaGetDeviceCount failed: out of memory")
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert reason().endswith("cuda-python is not installed: pip install cuda-python")
    monkeypatch.setattr(cuda, "driver_installed", lambda: False)
    builds = "builds work" in reason()
    assert builds == (library == "tensorrt_rtx")
    assert reason().endswith("there is no CUDA driver: install NVIDIA's, 580 or later")
    with pytest.raises(MissingDependencyError, match="no CUDA driver"):
        open_engine("tensorrt", Bundle.open(classes_bundle))
    with pytest.raises(MissingDependencyError, match="no CUDA driver"):
        open_engine("auto", Bundle.open(classes_bundle), device="cuda")
    monkeypatch.setitem(sys.modules, library, None)
    assert "pip install 'visdeploy[tensorrt]' (any NVIDIA GPU) or 'visdeploy[tensorrt-rtx]'" in reason()


@pytest.mark.usefixtures("library")
def test_a_cpu_that_is_asked_for_is_taken_beside_a_gpu(classes_bundle: Path) -> None:
    engine = open_engine("auto", Bundle.open(classes_bundle), device="cpu")
    assert engine.name != "tensorrt"
    engine.close()


def test_cuda_python_takes_the_arguments_that_it_is_given() -> None:
    """Without a driver every call fails; one with an argument of the wrong type would raise TypeError instead."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    if int(runtime.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("this machine has a GPU")
    calls = cuda.Runtime()
    to_host = calls.cudaMemcpyKind.cudaMemcpyDeviceToHost
    for name, arguments in {
        "cudaStreamCreateWithFlags": (calls.cudaStreamNonBlocking,),
        "cudaMalloc": (64,),
        "cudaMallocHost": (64,),
        "cudaMemcpyAsync": (64, 64, 8, to_host, 64),
        "cudaStreamSynchronize": (64,),
        "cudaStreamBeginCapture": (64, calls.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal),
        "cudaStreamEndCapture": (64,),
        "cudaFree": (64,),
        "cudaFreeHost": (64,),
        "cudaStreamDestroy": (64,),
        "cudaGraphInstantiate": (runtime.cudaGraph_t(64), 0),
        "cudaGraphDestroy": (runtime.cudaGraph_t(64),),
        "cudaGraphLaunch": (runtime.cudaGraphExec_t(64), 64),
        "cudaGraphExecDestroy": (runtime.cudaGraphExec_t(64),),
        "cudaGetDevice": (),
        "cudaSetDevice": (0,),
        "cudaGetDeviceProperties": (0,),
    }.items():
        with pytest.raises(CudaError, match=f"^{name} failed: CUDA driver version is insufficient"):
            getattr(calls, name)(*arguments)


def test_stand_in_offers_nothing_that_the_libraries_lack() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    runtime = pytest.importorskip("cuda.bindings.runtime")
    pairs = {
        standin.Engine: trt.ICudaEngine,
        standin.Context: trt.IExecutionContext,
        standin.RuntimeConfig: trt.IRuntimeConfig,
        standin.RuntimeCache: trt.IRuntimeCache,
        standin.Logger: trt.ILogger,
        standin.Cudart: runtime,
    }
    own = {"num_io_tensors", "content", "calls", "names", "live", "put"}
    for ours, theirs in pairs.items():
        offered = {name for name in vars(ours) if not name.startswith("_")} - (own - set(dir(theirs)))
        assert offered, ours
        assert offered <= set(dir(theirs)), offered - set(dir(theirs))
    module = standin.runtime_module(standin.Cudart(), "1.7", rtx=True)
    assert set(vars(module)) <= set(dir(trt))
    assert {*vars(module.DataType)} <= {*trt.DataType.__members__}
    assert {*vars(module.TensorIOMode)} <= {*trt.TensorIOMode.__members__}
    assert {*vars(module.CudaGraphStrategy)} <= {*trt.CudaGraphStrategy.__members__}
    assert trt.nptype(trt.DataType.FLOAT) == np.float32
    assert trt.nptype(trt.DataType.HALF) == np.float16
    assert trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(np.zeros(64, np.uint8)) is None
    assert isinstance(trt.Runtime.engine_host_code_allowed, property)
