# The image of the operator and its workers: one static program, no shell, no root.
FROM rust:1-bookworm AS build
WORKDIR /source
COPY . .
RUN scripts/static.sh /lazaret

FROM scratch
COPY --from=build /lazaret /lazaret
# For processors whose URL begins with https://; SSL_CERT_FILE names others.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/lazaret"]
