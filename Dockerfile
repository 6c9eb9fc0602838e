# The gateway as an image: one binary on a slim Debian, run by a user of its own.
#
#   docker build -t octroi .
#   docker run -d --name octroi -p 8080:8080 -v "$PWD/octroi.yaml":/etc/octroi/octroi.yaml:ro -v octroi:/data --stop-timeout 40 octroi
#   docker exec octroi octroi machine create "Billing" --permission sensors:read
#
# Settings: /etc/octroi/octroi.yaml, which must be mounted; no secret belongs into the image (${env:NAME} and ${file:path} stand
# for them). Clients connect to 0.0.0.0:8080, the default. The admin listener stays on the container's own 127.0.0.1:8090
# and the admin socket lies in the store, /data/admin.sock: commands are run inside, as above. For a monitoring network of
# your own, `telemetry: {bind: 0.0.0.0:9464}` shows metrics and probes outside.
#
# A mounted folder for /data must belong to the user 10001; a named volume does by itself.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
# Named one by one, so that nothing else can make the build run anew. Tests and benches are named in the manifest.
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY tests/it tests/it
COPY config config
COPY src src
RUN cargo build --release --locked --bin octroi

FROM debian:bookworm-slim
# Relative paths in the settings start at their folder: by the link, the default store `data` is the volume.
RUN groupadd --gid 10001 octroi \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin octroi \
    && install -d -m 0755 /etc/octroi \
    && install -d -m 0700 -o octroi -g octroi /data \
    && ln -s /data /etc/octroi/data
COPY --from=build /src/target/release/octroi /usr/local/bin/octroi

USER 10001:10001
# Which gateway `octroi health`, `machine`, `key` … speak to.
ENV OCTROI_CONFIG=/etc/octroi/octroi.yaml
VOLUME /data
EXPOSE 8080
# The gateway drains; `connections.drain` is 30 s, more than Docker waits unless told (--stop-timeout).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["octroi", "health"]
ENTRYPOINT ["octroi"]
CMD ["serve", "--config", "/etc/octroi/octroi.yaml"]
