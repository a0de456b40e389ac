"""The emulation that runs CUDA kernels on the CPU: its primitives, its runtime, and the faults it must find."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "cuda_on_cpu"
COMPILE = ["g++", "-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{FOLDER / 'include'}"]
DETECTORS = {
    "plain": [],
    # Without the check that would find the overrun of a shared array before ASan does.
    "address": ["-g", "-fsanitize=address,undefined", "-fno-sanitize=object-size", "-fno-sanitize-recover=all"],
    "thread": ["-g", "-fsanitize=thread"],
}
SIZES = (1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1023, 1024)
# What each fault's detectors say. A detector that is not listed here must not see the fault.
SEEN = {
    "tile_load": {"plain": "wrong result", "address": "wrong result", "thread": "data race"},
    "loop_end": {"plain": "wrong result", "address": "wrong result", "thread": "data race"},
    "syncwarp": {"plain": "wrong result", "address": "wrong result", "thread": "data race"},
    "shared_overrun": {"plain": "wrong result", "address": "global-buffer-overflow", "thread": "wrong result"},
    "global_overrun": {"address": "heap-buffer-overflow"},
    "global_write": {"plain": "past the end", "address": "heap-buffer-overflow", "thread": "past the end"},
    "host_read": {"address": "use-after-poison"},
    "divergent_barrier": dict.fromkeys(DETECTORS, "divergent barrier: thread"),
    "ballot": dict.fromkeys(DETECTORS, "which names lane 16, absent or exited"),
    "exited_lane": dict.fromkeys(DETECTORS, "has exited"),
    "mask_mismatch": dict.fromkeys(DETECTORS, "mismatch in a warp"),
    "lost_update": {"thread": "data race"},
    "too_much_shared": dict.fromkeys(DETECTORS, "declares 49156 bytes of shared memory"),
    "unset_shared": dict.fromkeys(DETECTORS, "wrong result"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `primitives`, `faults_DETECTOR` and `libshim.so`, compiled two at a time."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    out = tmp_path_factory.mktemp("cuda_on_cpu")
    sources = ("fibers", "switch", "symbols", "runtime", "memory", "errors")
    shim = [f"{name}.o" for name in sources]
    first = [[*COMPILE, "-O2", "-fPIC", "-c", str(FOLDER / f"{name}.cpp")] for name in sources]
    programs = [("primitives", "primitives.cu", "plain")]
    programs += [(f"faults_{name}", "faults/faults.cu", name) for name in DETECTORS]
    second = [["g++", "-shared", "-Wl,-Bsymbolic", *shim, "-o", "libshim.so"]]  # torch has loaded a real runtime
    for program, source, detector in programs:
        linked = ["-x", "c++", str(FOLDER / source), "-x", "none", *shim]
        second.append([*COMPILE, "-O1", *DETECTORS[detector], *linked, "-o", program])
    with ThreadPoolExecutor(2) as pool:
        for commands in (first, second):
            for done in pool.map(lambda command: subprocess.run(command, cwd=out, capture_output=True), commands):
                assert done.returncode == 0, done.stderr.decode()
    return out


def run(*command: str | Path | int) -> tuple[int, str]:
    """The exit code of a program and what it said."""
    options = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1:atexit_sleep_ms=0"}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env={**os.environ, **options}
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("threads", SIZES)
def test_primitives_equal_plain_loops(built: Path, threads: int) -> None:
    code, said = run(built / "primitives", threads, 0, 5)
    assert code == 0, said
    assert len(set(said.splitlines())) >= min(2 * threads, 6)  # every seed another order, where there are as many


def test_a_seed_gives_the_same_order_again_and_mixes_lanes_warps_and_blocks(built: Path) -> None:
    lines = run(built / "primitives", 96, 0, 19)[1].splitlines()
    orders = [[int(step) for step in line.split()] for line in lines]
    assert orders[0] == list(range(192))
    assert run(built / "primitives", 96, 5, 5)[1].splitlines() == [lines[5]]
    assert any(steps[0] > steps[1] for steps in orders)
    assert any(steps[0] < steps[1] for steps in orders)
    assert any(steps[0] > steps[40] for steps in orders)
    assert any(steps[0] > steps[100] for steps in orders)
    assert any(max(steps[:32]) - min(steps[:32]) > 31 for steps in orders)  # warps interleaved


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("fault", SEEN)
def test_faults_are_found_and_right_kernels_pass(built: Path, fault: str, detector: str) -> None:
    program = built / f"faults_{detector}"
    code, said = run(program, fault, "right", 0, 5)
    assert (code, said) == (0, "")
    code, said = run(program, fault, "wrong", 0, 5)
    if detector in SEEN[fault]:
        assert code != 0
        assert SEEN[fault][detector] in said
    else:
        assert (code, said) == (0, "")  # so it is the detector that finds the fault elsewhere


def test_the_message_names_the_kernel_the_launch_and_the_line(built: Path) -> None:
    said = run(built / "faults_plain", "divergent_barrier", "wrong", 0, 0)[1]
    lines = [i + 1 for i, line in enumerate((FOLDER / "faults/faults.cu").read_text().splitlines()) if "ads()" in line]
    assert "<<<(3, 1, 1), (64, 1, 1)>>>, block (0, 0, 0)" in said
    assert sum(f"faults.cu:{line})" in said for line in lines) == 2
    assert "divergent_barrier_kernel<true>" in said


# --- The runtime ------------------------------------------------------------------------------------------------------

INVALID_VALUE, OUT_OF_MEMORY, INVALID_HANDLE, LAUNCH_FAILURE, CAPTURE_UNSUPPORTED = 1, 2, 400, 719, 900
TO_DEVICE, TO_HOST = 1, 2


@pytest.fixture
def cuda(built: Path) -> Iterator[ctypes.CDLL]:
    """The runtime by itself, as new."""
    library = ctypes.CDLL(str(built / "libshim.so"))
    for name in ("live_allocations", "live_bytes", "peak_bytes", "fresh_allocations", "synchronizing_calls"):
        getattr(library, f"shim_{name}").restype = ctypes.c_int64
    library.shim_calls.restype = ctypes.c_char_p
    library.cudaGetErrorName.restype = ctypes.c_char_p
    library.shim_reset()
    library.cudaSetDevice(0)
    yield library
    assert library.shim_live_allocations() == 0


def made(call: str, library: ctypes.CDLL, *arguments: object) -> ctypes.c_void_p:
    """The handle or pointer that a call returns through its first argument."""
    handle = ctypes.c_void_p()
    assert getattr(library, call)(ctypes.byref(handle), *arguments) == 0
    return handle


def test_pointers_tell_their_device(cuda: ctypes.CDLL) -> None:
    def attributes(address: int) -> tuple[int, int]:
        fields = (ctypes.c_int * 6)()
        assert cuda.cudaPointerGetAttributes(fields, ctypes.c_void_p(address)) == 0
        return fields[0], fields[1]

    cuda.cudaSetDevice(1)
    device, pinned = made("cudaMalloc", cuda, 100), made("cudaMallocHost", cuda, 100)
    host = ctypes.create_string_buffer(100)
    assert device.value
    assert pinned.value
    assert attributes(device.value + 99) == (2, 1)
    assert attributes(pinned.value) == (1, 1)
    assert attributes(ctypes.addressof(host))[0] == 0
    for _ in range(2):  # one array may be labelled twice
        cuda.shim_register_device_memory(host, ctypes.c_size_t(100), 0)
    cuda.shim_unregister_device_memory(host)
    assert attributes(ctypes.addressof(host) + 99) == (2, 0)
    cuda.shim_unregister_device_memory(host)
    assert attributes(ctypes.addressof(host))[0] == 0
    assert (cuda.shim_live_allocations(), cuda.shim_live_bytes()) == (2, 200)
    assert cuda.cudaFree(pinned) == INVALID_VALUE
    assert cuda.cudaFree(device) == cuda.cudaFreeHost(pinned) == 0
    assert cuda.cudaFree(device) == INVALID_VALUE  # twice


def test_a_pool_that_keeps_its_memory_takes_none_in_steady_state(cuda: ctypes.CDLL) -> None:
    stream = made("cudaStreamCreateWithFlags", cuda, 1)
    pool = made("cudaDeviceGetDefaultMemPool", cuda, 0)

    def fresh_in_three_rounds() -> int:
        before = cuda.shim_fresh_allocations()
        for _ in range(3):
            blocks = [made("cudaMallocFromPoolAsync", cuda, ctypes.c_size_t(n), pool, stream) for n in (1000, 5000)]
            for block in blocks:
                assert cuda.cudaFreeAsync(block, stream) == 0
            cuda.cudaStreamSynchronize(stream)
        return int(cuda.shim_fresh_allocations() - before)

    assert fresh_in_three_rounds() == 6  # the default threshold of 0 gives all back at a synchronisation
    cuda.cudaMemPoolSetAttribute(pool, 4, ctypes.byref(ctypes.c_uint64(2**64 - 1)))
    assert fresh_in_three_rounds() == 2
    assert fresh_in_three_rounds() == 0
    assert cuda.shim_synchronizing_calls() == 9
    cuda.cudaMemPoolSetAttribute(pool, 4, ctypes.byref(ctypes.c_uint64(0)))
    cuda.cudaStreamDestroy(stream)


def test_calls_are_listed_with_their_streams(cuda: ctypes.CDLL) -> None:
    stream = made("cudaStreamCreateWithFlags", cuda, 1)
    block = made("cudaMallocAsync", cuda, ctypes.c_size_t(8), stream)
    assert cuda.cudaMemsetAsync(block, 0, ctypes.c_size_t(8), None) == 0
    assert cuda.cudaFreeAsync(block, stream) == 0
    name = f"{stream.value:#x}"
    assert cuda.shim_calls().decode() == f"cudaMallocAsync {name}\ncudaMemsetAsync 0\ncudaFreeAsync {name}\n"
    assert cuda.cudaStreamDestroy(stream) == 0
    assert cuda.cudaStreamSynchronize(stream) == INVALID_HANDLE


def test_calls_fail_as_told(cuda: ctypes.CDLL) -> None:
    cuda.shim_fail(b"cudaMalloc", 2, OUT_OF_MEMORY)
    block = made("cudaMalloc", cuda, ctypes.c_size_t(8))
    assert cuda.cudaMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(8)) == OUT_OF_MEMORY
    assert cuda.cudaPeekAtLastError() == cuda.cudaGetLastError() == OUT_OF_MEMORY
    assert cuda.cudaGetLastError() == 0
    assert cuda.cudaFree(block) == 0
    cuda.shim_set_pending_error(INVALID_VALUE)
    assert cuda.cudaDeviceSynchronize() == 0
    assert cuda.cudaGetLastError() == INVALID_VALUE
    cuda.shim_set_sticky_error(LAUNCH_FAILURE)
    assert [cuda.cudaDeviceSynchronize(), cuda.cudaGetLastError(), cuda.cudaGetLastError()] == [LAUNCH_FAILURE] * 3
    assert cuda.cudaGetErrorName(LAUNCH_FAILURE) == b"cudaErrorLaunchFailure"


def test_a_capturing_stream_refuses_what_waits(cuda: ctypes.CDLL) -> None:
    stream = made("cudaStreamCreateWithFlags", cuda, 1)
    size = ctypes.c_size_t(8)
    pageable, pinned = ctypes.create_string_buffer(8), made("cudaMallocHost", cuda, size)
    cuda.shim_set_capturing(stream, 1)
    block = made("cudaMallocAsync", cuda, size, stream)
    assert cuda.cudaMemcpyAsync(block, pinned, size, TO_DEVICE, stream) == 0
    assert cuda.cudaMemcpyAsync(block, pageable, size, TO_DEVICE, stream) == CAPTURE_UNSUPPORTED
    assert cuda.cudaMemcpyAsync(pageable, block, size, TO_HOST, stream) == CAPTURE_UNSUPPORTED
    assert cuda.cudaStreamSynchronize(stream) == CAPTURE_UNSUPPORTED
    assert cuda.cudaMalloc(ctypes.byref(ctypes.c_void_p()), size) == CAPTURE_UNSUPPORTED
    assert cuda.cudaFreeAsync(block, stream) == 0
    cuda.shim_set_capturing(stream, 0)
    assert cuda.cudaStreamSynchronize(stream) == cuda.cudaStreamDestroy(stream) == cuda.cudaFreeHost(pinned) == 0


def test_copies_check_their_ends(cuda: ctypes.CDLL) -> None:
    block, host = made("cudaMalloc", cuda, ctypes.c_size_t(8)), ctypes.create_string_buffer(b"visdeploy", 9)
    assert cuda.cudaMemcpy(block, host, ctypes.c_size_t(9), TO_DEVICE) == INVALID_VALUE  # one byte too many
    assert cuda.cudaMemcpy(host, block, ctypes.c_size_t(8), TO_DEVICE) == INVALID_VALUE  # the wrong way round
    assert cuda.cudaMemcpy(block, host, ctypes.c_size_t(8), TO_DEVICE) == 0
    back = ctypes.create_string_buffer(8)
    assert cuda.cudaMemcpy(back, block, ctypes.c_size_t(8), TO_HOST) == 0
    assert back.raw == b"visdeplo"
    assert cuda.cudaFree(block) == 0


@pytest.mark.parametrize(("devices", "error"), [(0, 100), (-1, 35)])
def test_without_a_device_or_a_driver_every_call_says_so(cuda: ctypes.CDLL, devices: int, error: int) -> None:
    cuda.shim_set_devices(devices)
    number, version = ctypes.c_int(-1), ctypes.c_int(-1)
    assert cuda.cudaGetDeviceCount(ctypes.byref(number)) == cuda.cudaSetDevice(0) == error
    assert number.value == 0
    assert cuda.cudaDriverGetVersion(ctypes.byref(version)) == 0
    assert (version.value == 0) == (devices < 0)
