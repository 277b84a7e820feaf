# Everything a person does here. Needs Python 3.10+, a C++20 compiler and a package registry; the rest goes to .venv.
#   make run        build, install, fetch the default model, chat
#   make learn      a novel to a tokenizer, shards, a small GPT that writes, its evaluation and a report (minutes)
#   make test       the whole test suite
#   make bench      native benchmarks per instruction set
#   make lint       ruff, mypy, clang-format
#   make wheel      a wheel in dist/, at most 8 MB
#   make old-cpus   import and generate on emulated old CPUs (Debian: qemu-user)
#   make compare    speed beside llama.cpp, in turns (build/compare has the samples)
#   make gemm       products of matrices beside numpy and PyTorch, in turns
#   make peers      llama.cpp (compiled once, minutes) reads what pyllm writes and trains: logits, ids, quantisation
#   make invariance  requests in every company, chunk, memory and order, compared bit for bit
#   make crash      kill training runs, fail their disk, everywhere; they must end the same (10 minutes)
#   make lm-eval    the model class for EleutherAI's harness beside the harness's own
#   make clean      remove what the above made (not the model)

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
STAGE := $(PYTHON) .ci/stage

# As in pyproject.toml: installed once into .venv, so that a rebuild compiles only what changed.
BUILD := "scikit-build-core>=0.10" "pybind11>=2.13" "cmake>=3.20" "ninja"
SOURCES := CMakeLists.txt $(shell find csrc pyllm -name '*.cpp' -o -name '*.h' -o -name '*.py' -o -name '*.pyi' -o -name py.typed)

.PHONY: run learn test bench lint format wheel old-cpus peers compare gemm invariance crash lm-eval clean

run: .venv/installed
	@$(BIN)/pyllm pull >/dev/null
	@if [ -t 0 ] && [ -t 1 ]; then $(BIN)/pyllm chat; else $(BIN)/pyllm chat --prompt "Tell me the capital of France."; fi

# Text to a model that writes, command by command. What is done is not done again; interrupted, it goes on.
PYLLM := $(BIN)/pyllm
LEARN := build/learn
NOVEL := examples/learn/emma.txt
VOCAB := 2048
MODEL := n_layer=4,n_head=4,n_embd=192,n_positions=256
TRAIN := --steps 600 --batch 16 --lr 2e-3 --warmup 40 --save-every 100 --eval-every 100
WRITE := -n 120 --temp 0.8 --seed 1

learn: $(LEARN)/run/report.html
	$(PYLLM) eval $(LEARN)/run --data $(LEARN)/shards
	$(PYLLM) generate -m $(LEARN)/run -p "Emma was" $(WRITE)
	@echo "The report: $<"

$(LEARN)/tokenizer/tokenizer.json: $(NOVEL) | .venv/installed
	$(PYLLM) tokenizer train $< -o $(LEARN)/tokenizer --vocab $(VOCAB) --overwrite

$(LEARN)/shards/manifest.json: $(LEARN)/tokenizer/tokenizer.json
	$(PYLLM) data prepare $(NOVEL) --tokenizer $(LEARN)/tokenizer -o $(LEARN)/shards --valid 0.05 --overwrite

$(LEARN)/run/run.json: $(LEARN)/shards/manifest.json
	$(PYLLM) pretrain --model gpt2 --config $(MODEL) --data $(LEARN)/shards --out $(LEARN)/run $(TRAIN)

$(LEARN)/run/report.html: $(LEARN)/run/run.json
	$(PYLLM) report $(LEARN)/run

# PYTHONSAFEPATH: subprocesses of the tests import the installed package, not the folder they stand in.
test: .venv/tested
	@PYTHONSAFEPATH=1 $(BIN)/pytest $(PYTEST)

bench: .venv/benchmark
	@$(STAGE) "build the native benchmarks" $(BIN)/cmake -S . -B build/bench -G Ninja -DPYLLM_BENCH=ON \
	-DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
	-Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	@$(STAGE) "compile" $(BIN)/cmake --build build/bench --target bench_kernels
	@build/bench/bench_kernels $(ARGS)

# PyPI's google-benchmark has no C++ in it; this sdist carries the library whole, and nothing else of it is used.
.venv/benchmark: .venv/tools
	@$(STAGE) "fetch Google Benchmark" $(BIN)/pip download --no-deps --no-binary onnx --dest .venv/sdist onnx==1.14.1
	@tar xzf .venv/sdist/onnx-1.14.1.tar.gz -C .venv/sdist onnx-1.14.1/third_party/benchmark
	@mv .venv/sdist/onnx-1.14.1/third_party/benchmark $@
	@touch $@

lint: .venv/linted
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@find csrc benchmarks -name '*.cpp' -o -name '*.h' | xargs $(BIN)/clang-format --dry-run -Werror

format: .venv/linted
	@$(BIN)/ruff check --fix .
	@find csrc benchmarks -name '*.cpp' -o -name '*.h' | xargs $(BIN)/clang-format -i

wheel: .venv/tools
	@rm -rf dist
	@$(STAGE) "wheel" $(BIN)/pip wheel --no-build-isolation --no-deps --wheel-dir dist .
	@$(PYTHON) -c "import glob, os; (w,) = glob.glob('dist/*.whl'); n = os.path.getsize(w); \
	print(w, n, 'bytes'); raise SystemExit(n > 8_000_000)"

old-cpus: .venv/tested
	@$(BIN)/python python_tests/old_cpus.py

# Arguments, for the first alone: make peers ARGS="--model none --only gpt2"
peers: .venv/peers
	@$(BIN)/python benchmarks/peers_logits.py $(ARGS)
	@[ -n "$(ARGS)" ] || $(BIN)/python benchmarks/peers_trained.py

# Groups of rows: make compare ARGS="7B 1B". The group avx2 needs another build of llama.cpp: make .venv/avx2/installed
compare: .venv/peers
	@$(BIN)/python benchmarks/compare.py --avx2-python "$(wildcard .venv/avx2/bin/python)" $(ARGS)

gemm: .venv/tested
	@$(BIN)/python benchmarks/gemm.py $(ARGS)

# Arguments: make invariance ARGS="MODEL.gguf --seconds 60"
invariance: .venv/tested
	@$(BIN)/python benchmarks/invariance.py $(ARGS)

# Arguments, for the first alone: make crash ARGS="--sample 20 --command PROGRAM ARGUMENT {folder}"
crash: .venv/tested
	@PYTHONSAFEPATH=1 $(BIN)/python python_tests/crash.py $(ARGS)
	@[ -n "$(ARGS)" ] || PYTHONSAFEPATH=1 $(BIN)/python python_tests/crash.py --sample 10 --kills 100 \
	--command $(BIN)/python python_tests/train_process.py {folder}

# The harness's own tasks with any model: .venv/bin/python -m pyllm.evaluate.lm_eval run --model pyllm --help
lm-eval: .venv/evaluated
	@HF_HUB_OFFLINE=1 $(BIN)/pytest python_tests/lm_eval_checks.py

clean:
	rm -rf .venv build dist

.venv/tools: pyproject.toml
	@[ -x $(BIN)/pip ] || $(STAGE) "create .venv" $(PYTHON) -m venv .venv
	@$(STAGE) "install build tools" $(BIN)/pip install $(BUILD) "numpy>=1.24" "jinja2>=3.1"
	@touch $@

.venv/installed: .venv/tools $(SOURCES)
	@$(STAGE) "build and install pyllm" $(BIN)/pip install --no-build-isolation .
	@touch $@

.venv/torch: .venv/tools
	@$(STAGE) "install $(TORCH)" $(BIN)/pip install $(TORCH)
	@touch $@

.venv/tested: .venv/torch $(SOURCES)
	@$(STAGE) "build, install with test extras" $(BIN)/pip install --no-build-isolation ".[test]"
	@touch $@ .venv/installed

.venv/evaluated: .venv/tested
	@$(STAGE) "install lm-eval" $(BIN)/pip install $(TORCH) accelerate lm-eval
	@touch $@

.venv/peers: .venv/tested
	@$(STAGE) "compile llama-cpp-python" $(BIN)/pip install "llama-cpp-python==0.3.36"
	@touch $@

AVX2 := -DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=OFF
.venv/avx2/installed: .venv/tools
	@$(STAGE) "create .venv/avx2" $(PYTHON) -m venv .venv/avx2
	@$(STAGE) "compile llama-cpp-python" env CMAKE_ARGS="$(AVX2)" .venv/avx2/bin/pip install --no-cache-dir \
	--no-binary llama-cpp-python llama-cpp-python==0.3.36
	@touch $@

.venv/linted: .venv/tools
	@$(STAGE) "install linters" $(BIN)/pip install ruff mypy clang-format
	@touch $@
