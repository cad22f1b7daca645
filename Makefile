# Strongroom: `make` prints what can be made.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
# The nested modules that are checked and tested by themselves. go vet of the other two, knative/local/adapter and
# knative/local/tidb, would take minutes. The integration tests build and run them.
MODULES := knative/local/ferretdb shared/token/wycheproof

.PHONY: help run test integration check audit console bench deploy undeploy rotate-keys cluster tunnel e2e upgrade

help: ## print this
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

run: ## run the whole system on this machine, without a cluster (ADDR=127.0.0.1:9000 changes the address)
	@mkdir -p .strongroom/bin
	@echo "building the runner"
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -o .strongroom/bin/local ./knative/local # flags as for all it builds itself: shared results
	@exec .strongroom/bin/local

test: check ## check the code and run the unit and integration tests, with real servers where they can be had
	go run ./test/servers
	for module in $(MODULES); do go test -C $$module ./...; done
	go test -race -timeout 45m ./...

integration: ## run test/integration against the servers that MYSQL_ADMIN_DSN and others name (README.md), or private ones
	go run ./test/servers
	go test -race -count=1 -timeout 45m ./test/integration/...

check: ## gofmt, go vet, staticcheck
	@echo "gofmt"; unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
		if [[ -n $$unformatted ]]; then echo "gofmt would change: $$unformatted" >&2; exit 1; fi
	go vet ./... && go vet -tags e2e,upgrade ./test/e2e/... && go vet -tags audit ./functions/... ./shared/... ./test/integration
	go tool staticcheck ./... && go tool staticcheck -tags e2e,upgrade ./test/e2e/...
	go tool staticcheck -tags audit ./functions/... ./shared/... ./test/integration
	for module in $(MODULES); do go vet -C $$module ./...; done

audit: ## list the known faults: the proofs of the audit that still fail
	go run ./test/servers
	go run ./test/audit

console: ## build the gateway's web console anew; needs Node, and what is built is committed
	npm --prefix functions/gateway/console ci --ignore-scripts --no-audit --no-fund
	npm --prefix functions/gateway/console run build

bench: ## print the figures of docs/benchmarks.md
	go test -run "^$$" -bench . ./test/bench/... ./functions/... ./shared/telemetry

deploy: ## deploy to the cluster of the current kubectl context (EXPOSE=gateway: only the gateway gets a public URL)
	config/platform/deploy

undeploy: ## take Strongroom away from the cluster of the current kubectl context
	config/platform/undeploy

rotate-keys: ## say how the signing key stands; STEP=new replaces it without a failed request (docs/key-rotation.md)
	config/platform/rotate-keys $(STEP)

cluster: ## create a minikube cluster with Knative and the RabbitMQ source (defaults: MEMORY=6g CPUS=4)
	config/platform/cluster

tunnel: ## make the functions on minikube reachable from this machine; runs until it is stopped
	config/platform/tunnel

upgrade: ## try an upgrade from FROM=COMMIT in the cluster of the current kubectl context, which must have no Strongroom
	go test -tags e2e,upgrade -count=1 -timeout 60m -v -run TestUpgrade ./test/e2e

e2e: ## try the system that is deployed to the current kubectl context (RUN=REGEXP: only some of the tests)
	go test -tags e2e -count=1 -timeout 45m -v -run '$(RUN)' ./test/e2e/...
