# A browser without a screen. Large, and so built only for those who ask for it.
ARG BASE
FROM ${BASE}
RUN apt-get update \
 && apt-get install -y chromium fonts-dejavu-core \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
