# Every target works on a fresh machine with python3.11 (venv, headers), g++ and make; the first one fills .venv.
PYTHON ?= python3.11
BIN := .venv/bin
EXTRAS := dev,train,openvino,onnxruntime,torchscript,tensorrt-rtx,quantize
NATIVE := CMakeLists.txt $(shell find csrc -type f)
PY := pysdk tests bench cuda13
CXX_FILES := $(shell find csrc examples/cpp tests/cuda_on_cpu -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test soak sanitize lint format bench wheel cuda cuda-tables clean

demo: .venv/.ready
	$(BIN)/visdeploy demo --out demo_out

test: .venv/.ready build/cuda_on_cpu/.ready
	$(BIN)/python -m pytest

# What takes longer: more orders of CUDA threads, and all sizes, in the tests and under the sanitizers.
soak:
	VISDEPLOY_SOAK=1 $(MAKE) test sanitize

# The CUDA kernels compiled for the CPU, over tests/cuda_on_cpu in place of CUDA.
build/cuda_on_cpu/.ready: .venv/.ready $(wildcard tests/cuda_on_cpu/*.* tests/cuda_on_cpu/include/*.* tests/cuda_on_cpu/include/cub/*.*)
	$(BIN)/cmake -S tests/cuda_on_cpu -B build/cuda_on_cpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DVISDEPLOY_WERROR=ON \
		-DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
		-Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) --log-level=WARNING
	$(BIN)/cmake --build build/cuda_on_cpu
	@touch $@

# Programs that run the kernels on the CPU under sanitizers: ASan and UBSan, or TSan.
build/cuda_on_cpu_%/.ready: .venv/.ready $(wildcard tests/cuda_on_cpu/*.* tests/cuda_on_cpu/*/*.*)
	$(BIN)/cmake -S tests/cuda_on_cpu -B $(@D) -G Ninja -DVISDEPLOY_PYTHON=OFF -DVISDEPLOY_MAINS=ON \
		-DVISDEPLOY_SANITIZE=$(subst address,ON,$*) -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) --log-level=WARNING
	$(BIN)/cmake --build $(@D)
	@touch $@

# The tests of the native module once more, against one that stops at memory errors and undefined behaviour; and the
# kernels under sanitizers.
NATIVE_TESTS := tests/test_arrays.py tests/test_drop_in.py $(shell grep -lE 'usefixtures."(isa|implementation)"' tests/test_*.py)
sanitize: build/sanitize/.ready build/cuda_on_cpu_address/.ready build/cuda_on_cpu_thread/.ready
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 VISDEPLOY_CUDA_ON_CPU=none \
		build/sanitize/bin/python -m pytest -p no:cacheprovider $(NATIVE_TESTS)
	for build in build/cuda_on_cpu_address build/cuda_on_cpu_thread; do $(BIN)/ctest --test-dir $$build --parallel 2 --output-on-failure || exit 1; done

# An environment of its own, which sees the packages of .venv but not the module that is installed there.
build/sanitize/.ready: .venv/.ready
	$(PYTHON) -m venv --without-pip build/sanitize
	$(BIN)/python -c "import site; print(*site.getsitepackages())" > build/sanitize/shared.pth
	mv build/sanitize/shared.pth build/sanitize/lib/python3*/site-packages/
	$(BIN)/python -m pip --python build/sanitize install --quiet --force-reinstall --no-deps --no-build-isolation \
		-Cbuild-dir=build/sanitize/native -Ccmake.define.VISDEPLOY_SANITIZE=ON -Ccmake.define.VISDEPLOY_TORCH=OFF .
	@touch $@

lint: .venv/.ready
	$(BIN)/ruff check $(PY)
	$(BIN)/ruff format --check $(PY)
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: .venv/.ready
	$(BIN)/ruff check --fix $(PY)
	$(BIN)/ruff format $(PY)
	$(BIN)/clang-format -i $(CXX_FILES)

bench: .venv/.rivals
	for script in bench/bench_*.py bench/ops/bench_*.py bench/serving/bench_*.py; do $(BIN)/python $$script --json bench/results/$$(basename $$script .py).json || exit 1; done
	$(BIN)/python bench/report.py

# Without isolation, where there would be no torch to build its ops with.
wheel: .venv/.ready
	$(BIN)/python -m build --wheel --no-isolation -Ccmake.define.VISDEPLOY_TORCH=ON --outdir dist

# The wheel visdeploy-cuda13, for a GPU or without one, with the nvcc of the machine or else from PyPI.
ARCHITECTURES ?= 75 80 86 89 90 100 120
NEWEST := $(lastword $(ARCHITECTURES))
PYPI_NVCC := build/nvcc/nvidia/cu13/bin/nvcc
NVCC ?= $(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc) $(PYPI_NVCC))
CUOBJDUMP := build/cuobjdump/nvidia/cu13/bin/cuobjdump
empty :=
cuda: .venv/.tools $(filter $(PYPI_NVCC),$(NVCC)) $(CUOBJDUMP)
	rm -f dist/visdeploy_cuda13-*.whl
	CUDACXX=$(abspath $(NVCC)) LIBRARY_PATH=$(abspath build/nvcc/nvidia/cu13/lib) $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist \
		-Ccmake.define.VISDEPLOY_WERROR=ON \
		-Ccmake.define.CMAKE_CUDA_ARCHITECTURES="$(subst $(empty) ,;,$(strip $(addsuffix -real,$(filter-out $(NEWEST),$(ARCHITECTURES))) $(NEWEST)))" ./cuda13
	$(BIN)/python cuda13/check_wheel.py $(CUOBJDUMP) dist/visdeploy_cuda13-*.whl $(ARCHITECTURES)

# What docs/cuda.md says of registers, launches and memory.
cuda-tables: .venv/.ready build/cuda_on_cpu/.ready
	PYTHONPATH=tests $(BIN)/python bench/cuda_tables.py --nvcc $(NVCC)

$(PYPI_NVCC): .venv/.tools
	$(BIN)/python -m pip install --quiet --no-deps --target build/nvcc "nvidia-cuda-nvcc==13.0.*" "nvidia-cuda-crt==13.0.*" "nvidia-nvvm==13.0.*" \
		"nvidia-cuda-runtime==13.0.*" "nvidia-cuda-cccl==13.0.*" "nvidia-cuda-culibos==13.0.*"

$(CUOBJDUMP): .venv/.tools
	$(BIN)/python -m pip install --quiet --no-deps --target build/cuobjdump "nvidia-cuda-cuobjdump>=13.0,<13.5"

clean:
	rm -rf .venv build dist demo_out

.venv/.tools:
	@echo "Filling .venv: about 3.5 GB to download and 6.9 GB on disk, most of it torch. pip stays quiet for some minutes."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25" "scikit-build-core>=1.1" "pybind11>=3.1" "cmake>=3.26" ninja
	@touch $@

# Before the project, whose ops for torch are built with it.
.venv/.torch: .venv/.tools constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	@touch $@

# One step installs what is missing and builds what changed; without isolation, so that the build is incremental.
.venv/.ready: .venv/.torch pyproject.toml constraints.txt $(NATIVE)
	@echo "Installing packages and building the native module."
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation \
		-Ccmake.define.VISDEPLOY_WERROR=ON -Ccmake.define.VISDEPLOY_TORCH=ON --editable ".[$(EXTRAS)]"
	@touch $@

# What only the benches compare with.
.venv/.rivals: .venv/.ready
	$(BIN)/python -m pip install --quiet ultrafast-pycocotools rlemasklib faster-coco-eval powerboxes
	$(BIN)/python -m pip install --quiet --no-deps openvino-model-api # whose opencv-python-headless would overwrite opencv-python
	@touch $@
