# The programs of Weir in an image without shell or package manager, as a user without rights.
#
#   docker build --build-arg VERSION=$(git describe --tags --always) --build-arg COMMIT=$(git rev-parse HEAD) -t weir .
#   docker run -e DATABASE_URL -v ./weir.yaml:/etc/weir/weir.yaml:ro weir
#   docker run -e DATABASE_URL --entrypoint /usr/local/bin/weir weir migrate up
#   docker run -e DATABASE_URL -e CONSOLE_PASSWORD --entrypoint /usr/local/bin/riverui-proxy weir

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src

# The modules change less often than the code: their layer is kept.
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download

COPY . .
ARG VERSION=dev COMMIT=
ARG TARGETOS TARGETARCH
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    for program in cmd/*; do \
        CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
            -ldflags "-s -w -X main.version=$VERSION -X main.commit=$COMMIT" \
            -o /out/$(basename $program) ./$program || exit 1; \
    done

# The programs are static: they want the certificates of public authorities and nothing else.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/ /usr/local/bin/
# 9464: /metrics, /healthz and /readyz, once http.listen names an address that is reached from outside, such as ":9464".
# 8080: the console, once console.listen does.
EXPOSE 9464 8080
USER 65532:65532
# Whether the process is alive, by /healthz of http.listen. Whoever starts another program than the worker turns it off.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/usr/local/bin/worker", "-healthcheck"]
# The worker ends on SIGTERM by itself, after running deliveries had their time (shutdown_timeout, 30s by default):
# give it longer than that before it is killed (docker stop --time, terminationGracePeriodSeconds).
ENTRYPOINT ["/usr/local/bin/worker"]
