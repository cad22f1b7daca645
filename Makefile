# `make` without a target prints the list of targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
# The nested modules that `make check` and `make test` check and test separately. The other two nested modules,
# local/adapter and local/tidb, are not in the list, because go vet would take minutes. The
# integration tests build and run these two modules.
MODULES := local/ferretdb shared/token/wycheproof test/monitoring

# The packages whose tests use real servers, through test/servertest. `make integration` tests one package at a time
# (-p 1), because some tests kill a named server, which would interrupt the tests of other packages.
SERVER_TESTS := ./shared/accounts ./shared/catalog ./shared/content ./shared/events ./shared/mongodb ./test/integration

# The files whose spelling and wording `make check` checks.
TEXTS := ':!*/dist/*' ':!*/testdata/*' ':!*.sum' ':!*/package-lock.json' ':!LICENSE'

.PHONY: help run test integration check audit console bench soak deploy undeploy hops rotate-keys cluster tunnel images release e2e upgrade gitops production failover

help: ## print this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

run: ## run the whole system on this machine without a cluster (ADDR=127.0.0.1:9000 changes the address)
	@mkdir -p .strongroom/bin
	@echo "building local, which runs the system"
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -o .strongroom/bin/local ./local # the flags that local itself uses, to share the build cache
	@exec .strongroom/bin/local

test: check ## check the code and run the unit and integration tests, with real servers where they are available
	go run ./test/servers
	for module in $(MODULES); do go test -C $$module ./...; done
	go test -race -timeout 45m ./...

integration: ## run only the tests that use real servers: private ones, or those in MYSQL_ADMIN_DSN and other variables (README.md)
	go run ./test/servers
	go test -race -count=1 -p 1 -timeout 45m $(SERVER_TESTS)

check: ## check the code with gofmt, go vet and staticcheck, and the spelling and wording of all texts
	@echo "gofmt"; unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
		if [[ -n $$unformatted ]]; then echo "these files are not formatted with gofmt: $$unformatted" >&2; exit 1; fi
	go vet ./... && go vet -tags e2e,upgrade,members,gitops,production ./test/e2e/... && go vet -tags audit ./functions/... ./shared/... ./test/integration
	go tool staticcheck ./... && go tool staticcheck -tags e2e,upgrade,members,gitops,production ./test/e2e/...
	go tool staticcheck -tags audit ./functions/... ./shared/... ./test/integration
	for module in $(MODULES); do go vet -C $$module ./...; done
	@echo "spelling and wording"; git ls-files -z $(TEXTS) | xargs -0 go tool misspell -error -locale US -i catalogue,catalogued
	@if git grep -nwiFf test/docs/banned-phrases -- $(TEXTS) ':!CONTRIBUTING.md' ':!test/docs/banned-phrases'; then \
		echo "these lines contain phrases that test/docs/banned-phrases bans: see CONTRIBUTING.md" >&2; exit 1; fi

audit: ## run the proofs of the known faults, and list the proofs that still fail
	go run ./test/servers
	go run ./test/audit

console: ## rebuild the gateway's web console (requires Node.js; commit the result)
	npm --prefix functions/gateway/console ci --ignore-scripts --no-audit --no-fund
	npm --prefix functions/gateway/console run build

bench: ## print the figures for docs/benchmarks.md (SCALE=1: only those for 10^4 to 10^7 files, and write the plots; option: FILES)
ifdef SCALE
	go run ./test/servers
	go test -count=1 -timeout 2h -v -run '^TestScale$$' ./test/bench
	go test -count=1 -v -run '^TestScalePages$$' ./test/bench -update
else
	go test -run "^$$" -bench . ./test/bench/... ./functions/... ./shared/accounts ./shared/telemetry
	go test -count=1 -v -run '^TestScalePages$$' ./test/bench
endif

soak: ## upload 10,000 files (1,000 to FerretDB) while everything is killed (options: UPLOADS CLIENTS SEED KILL_INTERVAL)
	go run ./test/servers
	SOAK=1 go test -count=1 -timeout 6h -v -run '^TestSoak$$' ./test/integration

deploy: ## deploy to the cluster of the current kubectl context (options: EXPOSE=all STORES=external BACKUP=1)
	deploy/deploy

undeploy: ## remove Strongroom from the cluster of the current kubectl context
	deploy/undeploy

hops: ## check TRUSTED_HOPS by sending requests with forged headers to the deployed system (docs/ingress.md)
	deploy/hops

rotate-keys: ## print the state of the key rotation (STEP=new replaces the signing key, see docs/key-rotation.md)
	deploy/rotate-keys $(STEP)

cluster: ## create a cluster with Knative and the RabbitMQ source (defaults: PLATFORM=minikube MEMORY=6g CPUS=4; or PLATFORM=kind)
	deploy/cluster

tunnel: ## make the functions on minikube reachable from this machine, until you stop the command
	deploy/tunnel

images: ## build and push the images, and write their names to deploy/overlays/images for GitOps (needs KO_DOCKER_REPO)
	deploy/build-images

release: ## make a release of the current commit, in a folder (needs VERSION=v0.1.0 KO_DOCKER_REPO; option: OUT)
	deploy/release

gitops: ## test deploy/overlays/production in the cluster of the current kubectl context, and leave it deployed
	go test -tags e2e,gitops -count=1 -timeout 30m -v -run TestGitOps ./test/e2e

upgrade: ## test an upgrade from FROM=COMMIT in the cluster of the current kubectl context, which must not have Strongroom
	go test -tags e2e,upgrade -count=1 -timeout 60m -v -run TestUpgrade ./test/e2e

production: ## follow docs/production.md in the cluster of the current kubectl context, which must not have Strongroom
	test/production/stores up
	go test -tags e2e,production -count=1 -timeout 30m -v -run TestProductionPage ./test/e2e

failover: ## test a RabbitMQ cluster in the cluster of the current kubectl context, after make production
	go test -tags e2e,members -count=1 -timeout 20m -v -run 'TestQueueMembers|TestRabbitMQFailover' ./test/e2e

e2e: ## test the system in the cluster of the current kubectl context (RUN=REGEXP: only the matching tests)
	go test -tags e2e -count=1 -timeout 45m -v -run '$(RUN)' ./test/e2e/...
