.DEFAULT_GOAL := help
.PHONY: help demo test bench endurance chaos simulate upgrade-test chaos-proof simulate-proof scale-test bed bed-up bed-install bed-down lint crds chart-docs clean

# As scripts/cache.sh has it: a fresh clone compiles only itself.
export CARGO_BUILD_BUILD_DIR ?= $(or $(LAZARET_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lazaret)/cargo

CRD := crds/errorhandlingpipelines.lazaret.dev.yaml

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: ## run the example pipeline on this machine
	@echo "The first time this compiles Lazaret and librdkafka, which takes three minutes on two cores, and downloads 30 MB of"
	@echo "sources if cargo does not have them yet. Later it starts in seconds. Compilers that are missing are installed, or named."
	@scripts/needs.sh build
	cargo run --profile demo --locked --no-default-features -- dev examples/orders.yaml

test: ## run all tests, with a Kafka node and a cluster that are started for them
	@scripts/test.sh

bench: ## measure the engine against a Kafka node
	@scripts/needs.sh build test
	scripts/with.sh kafka cargo bench --locked --bench engine

endurance: ## run both stages for two hours, and see whether memory stays as it is
	@scripts/needs.sh build test
	scripts/with.sh kafka cargo bench --locked --bench endurance

chaos: export LAZARET_CHAOS_MINUTES ?= 5
chaos: ## let workers, three brokers and the endpoint fail under load, and account for every record afterwards
	@scripts/needs.sh build test
	cargo test --release --locked --test chaos -- --nocapture

simulate: export LAZARET_SIMULATE_SECONDS ?= 3600
simulate: ## live through what could happen to a stage, in virtual time and from one seed after the other
	@scripts/needs.sh build test
	cargo test --release --locked --test simulation -- --nocapture

upgrade-test: ## run workers of an older revision and of this one beside each other
	@scripts/upgrade-test.sh

chaos-proof: ## break the engine on purpose, promise by promise, and see that chaos notices
	@scripts/proof.sh chaos

simulate-proof: ## the same for the simulation
	@scripts/proof.sh simulation

scale-test: export LAZARET_PIPELINES ?= 200
scale-test: export LAZARET_IDLE_SECONDS ?= 300
scale-test: export LAZARET_MOVING_SECONDS ?= 120
scale-test: export LAZARET_DEAD_LETTERS ?= 1000000
scale-test: ## make many pipelines at once, and many dead letters, and print what they cost
	@scripts/needs.sh build test bed
	scripts/with.sh bed cargo test --release --locked --test cluster scale:: -- --nocapture --test-threads 1

bed: ## build the Kubernetes cluster of the tests, with Kafka and Strimzi's CRDs
	@scripts/needs.sh build test bed
	@tests/bed/build.sh

bed-up: ## start it; BED_BROKERS=3 and BED_STRIMZI=v1beta2 make it another one
	@scripts/needs.sh build test bed
	@rm -f "$${LAZARET_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/lazaret}/bed/for-a-run" # it is not a run's any more
	@tests/bed/up.sh

bed-install: bed-up ## start it, and install the chart in it; HELM_ARGS go to helm
	@tests/bed/install.sh $(HELM_ARGS)

bed-down: ## stop it, and leave nothing of it but what was built
	@tests/bed/down.sh

lint: ## check format, lints and documentation
	@scripts/needs.sh build
	cargo fmt --all --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --no-default-features --locked -- -D warnings # what `make demo` builds
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

crds: ## write the CRD anew from the Rust types, and the chart's copy of it
	@scripts/needs.sh build
	@mkdir -p crds target
	cargo run --quiet --locked -- crds > target/crd.yaml # by way of target: a failure leaves the old file whole
	mv target/crd.yaml $(CRD)
	cp $(CRD) charts/lazaret/files/crds/

chart-docs: ## write the chart's README anew from the comments in its values
	@scripts/needs.sh build
	LAZARET_WRITE=1 cargo test --quiet --locked --test local the_readme_lists

clean: ## remove what was built, and the tests' Kafka and Kubernetes nodes with their data
	cargo clean
	tests/bed/down.sh
	tests/bed/kafka/down.sh --wipe
