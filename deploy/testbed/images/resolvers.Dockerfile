# Sites of clients: the four recursive resolvers that most of the Internet asks, beside the tools.
ARG BASE
FROM ${BASE}
RUN apt-get update \
 && apt-get install -y unbound bind9 knot-resolver pdns-recursor \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
