# One static binary on an empty image, run by an ordinary user.
#
#   docker build -t sluice .
#   docker run -p 9000:9000 -p 9870:9870 -p 9001:9001 -v sluice:/data sluice
#
# Beyond loopback WebHDFS asks for an access key pair (HTTP Basic) unless --webhdfs-auth says otherwise.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/sluice .
RUN mkdir -p /out/data /out/tmp && echo 'sluice:x:65532:65532:Sluice:/data:/' > /out/passwd

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/passwd /etc/passwd
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build --chown=65532:65532 /out/tmp /tmp
COPY --from=build /out/sluice /sluice
USER 65532:65532
VOLUME /data
EXPOSE 9000 9870 9001
ENTRYPOINT ["/sluice"]
CMD ["serve", "--data=/data", "--s3-listen=0.0.0.0:9000", "--webhdfs-listen=0.0.0.0:9870", "--admin-listen=0.0.0.0:9001"]
