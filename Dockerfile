# The worker and its command line in an image without shell or package manager, as a user without rights.
#
#   docker build --build-arg VERSION=$(git describe --tags --always) -t weir .
#   docker run -e DATABASE_URL -v ./weir.yaml:/etc/weir/weir.yaml:ro weir
#   docker run -e DATABASE_URL --entrypoint /usr/local/bin/weir weir migrate up

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src

# The modules change less often than the code: their layer is kept.
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download

COPY . .
ARG VERSION=dev
ARG TARGETOS TARGETARCH
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    for program in worker weir; do \
        CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
            -ldflags "-s -w -X main.version=$VERSION" -o /out/$program ./cmd/$program || exit 1; \
    done

# The programs are static: they want the certificates of public authorities and nothing else.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/worker /out/weir /usr/local/bin/
# /metrics, /healthz and /readyz, once http.listen names an address that is reached from outside, such as ":9464".
EXPOSE 9464
USER 65532:65532
# The worker ends on SIGTERM by itself, after running deliveries had their time (shutdown_timeout, 30s by default):
# give it longer than that before it is killed (docker stop --time, terminationGracePeriodSeconds).
ENTRYPOINT ["/usr/local/bin/worker"]
