# CPU by default; for a CUDA machine: docker build --build-arg BASE=pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime .
ARG BASE=python:3.11-slim
# hadolint ignore=DL3006  # the tag is part of BASE
FROM ${BASE}

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /opt/erode

# Where the base image brings no torch: an index with CPU builds keeps the image small (empty = pip's own index).
ARG TORCH_INDEX=
COPY requirements.lock ./
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3013  # the version follows the optional index
RUN python -c "import torch" 2>/dev/null || python -m pip install ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch==2.13.0
# An image with its own torch keeps it: the lock's pin would replace a CUDA build.
RUN grep -v '^torch==' requirements.lock > others.lock && python -m pip install --requirement others.lock

COPY . .
RUN python -m pip install --no-deps . && useradd --create-home --uid 1000 researcher
USER 1000
WORKDIR /home/researcher

ENTRYPOINT ["erode"]
CMD ["--help"]
