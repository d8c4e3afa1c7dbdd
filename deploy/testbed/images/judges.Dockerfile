# What others have written to judge a zone by, beside the tools.
ARG BASE
FROM ${BASE}
RUN apt-get update \
 && apt-get install -y zonemaster-cli dnsviz \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
