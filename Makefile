# Two commands do everything: `make up` and `make test`.
CARGO ?= cargo
DATA  ?= $(HOME)/.local/share/skep
LISTEN ?= 127.0.0.1:6443
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)

.PHONY: up down build test bench check fmt tools

# Builds everything and starts it on this computer, with its data in $(DATA).
up: build
	./target/release/skep up --data $(DATA) --listen $(LISTEN)

# Stops it. Nothing is lost.
down:
	./target/release/skep down --data $(DATA)

build:
	$(CARGO) build --release --package skep

# Installs what the whole-system tests use: clients into target/tools; as root on Debian, missing programs too.
tools:
	./scripts/test-tools.sh

# All tests: unit, property, and whole-system.
# The whole-system tests start the binary, which is built along with them.
test: tools
ifeq ($(NEXTEST),yes)
	$(CARGO) nextest run --workspace
else
	$(CARGO) test --workspace --lib --bins --tests
endif

# Layering, file sizes, formatting, lints.
check:
	$(CARGO) xtask tidy
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets -- --deny warnings

fmt:
	$(CARGO) fmt --all

bench:
	$(CARGO) run --release --package skep-auth --example decisions
