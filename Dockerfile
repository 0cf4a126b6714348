# The image of the operator and its workers: one static program, no shell, no root.
FROM rust:1-bookworm AS build
WORKDIR /source
COPY . .
RUN scripts/static.sh /lazaret

FROM scratch
COPY --from=build /lazaret /lazaret
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/lazaret"]
