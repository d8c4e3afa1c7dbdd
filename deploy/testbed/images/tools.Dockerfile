# What hosts of the testbed run besides nodes: the web site, the name servers of its Internet, and tools to look around.
ARG BASE
FROM ${BASE}
RUN apt-get update \
 && apt-get install -y \
      nginx-light nsd \
      bind9-dnsutils knot-dnsutils curl iproute2 iputils-ping mtr-tiny procps tcpdump traceroute \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
