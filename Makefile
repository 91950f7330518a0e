# The first target is the help: `make` alone shows what there is.
.DEFAULT_GOAL := help
.PHONY: help build demo generate lint test test-matrix bench chaos crash fuzz clean

# A checkout that belongs to somebody else (a container's, a CI runner's) makes Go's own version stamp fail;
# the version comes from the lines below instead.
export GOFLAGS := $(GOFLAGS) -buildvcs=false
# Nothing here is C. Only the race detector wants a compiler: scripts/test looks for one.
export CGO_ENABLED := 0
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT := $(shell git rev-parse HEAD 2>/dev/null)
BINARIES := $(notdir $(wildcard cmd/*))

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(BINARIES:%=bin/%) ## Build the programs of cmd/ into bin/.

# Go knows best what is out of date, so these are always built; its cache makes that cheap.
.PHONY: $(BINARIES:%=bin/%)
$(BINARIES:%=bin/%): bin/%:
	@echo "build $@ $(VERSION)"
	@go build -trimpath -ldflags '-X main.version=$(VERSION) -X main.commit=$(COMMIT)' -o $@ ./cmd/$*

demo: bin/weir ## Show Weir at work on a private PostgreSQL; ARGS=--once ends by itself.
	@bin/weir demo $(ARGS)

generate: ## Write the generated files again: sqlc, migrations, JSON Schema.
	@tools/run sqlc generate
	@go generate ./...

lint: ## Check formatting, code, generated queries and go.mod.
	@scripts/lint

test: ## Run all tests, with the race detector; they start the servers they need.
	@scripts/setup
	@scripts/test $(ARGS)

test-matrix: ## Run what depends on PostgreSQL's version on 14 to 18; ARGS='14.18 17.5' for some of them.
	@scripts/test-matrix $(ARGS)

bench: ## Measure against PostgreSQL's and River's limits, into docs/performance.md; ONLY=row RUNS=n FULL=1 PEER=path PROFILE=dir.
	@scripts/setup
	@go run ./internal/bench/run -only '$(ONLY)' $(if $(RUNS),-runs $(RUNS)) $(if $(FULL),-full) \
		$(if $(PEER),-peer '$(PEER)') $(if $(PROFILE),-profile '$(PROFILE)') $(ARGS)

chaos: build ## Break everything under load, and compare afterwards; ARGS="--seed 7 --for 20m", ARGS=-help.
	@go run ./internal/chaos/run $(ARGS)

crash: ## Run the crash tests with their full figures: long.
	@WEIR_CHAOS=full go test -count=1 -timeout 120m -run 'Crash|Chaos' $(ARGS) ./...

fuzz: ## Run every fuzz target for a while; ARGS=5m: for how long each.
	@scripts/fuzz $(ARGS)

clean: ## Remove what `make build` made.
	@rm -rf bin
