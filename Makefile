# Two commands do everything: `make up` and `make test`.
CARGO ?= cargo
# Where data goes and what is listened on, if not where `skep up` does by itself: make up DATA=/srv/skep LISTEN=0.0.0.0:6443
DATA ?=
LISTEN ?=
PREFIX ?= /usr/local
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)

.PHONY: up down build test bench check fmt tools dist install uninstall

# Builds everything and starts it on this computer.
up: build
	./target/release/skep up $(if $(DATA),--data $(DATA)) $(if $(LISTEN),--listen $(LISTEN))

# Stops it. Nothing is lost.
down:
	./target/release/skep down $(if $(DATA),--data $(DATA))

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

# A release: target/dist/skep-VERSION-MACHINE-linux.tar.gz and its checksum.
dist: build
	./scripts/dist.sh target/release/skep target/dist

# Installs that release on this computer, and takes it away again (data stays).
install: dist
	rm -rf target/dist/unpacked && mkdir -p target/dist/unpacked
	tar xzf target/dist/skep-*.tar.gz -C target/dist/unpacked --strip-components 1
	PREFIX=$(PREFIX) sh target/dist/unpacked/install.sh

uninstall:
	PREFIX=$(PREFIX) sh packaging/uninstall.sh
