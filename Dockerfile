# RUNTIME is `cpu` (LanceDB and PostgreSQL), `milvus` (the same with Milvus's client) or `gpu` (brings its own CUDA libraries;
# needs only the driver on the host): `make image`, `make image GPU=1`.
ARG RUNTIME=cpu
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim

FROM ${PYTHON_IMAGE} AS tools
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/* \
    && install --directory --mode 1777 /skeleton/tmp && install --directory /skeleton/data/gallery
WORKDIR /src
COPY requirements/build.txt requirements/
RUN python3 -m venv /opt/tools \
    && /opt/tools/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/build.txt
ENV PATH=/opt/tools/bin:$PATH UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1 VIRTUAL_ENV=/opt/candor

# Pins first, code last: a change of code neither installs nor ships the pins again. What one stage makes is copied into the
# next, not mounted: Podman 4.3's cache does not see what a mount from another stage holds, and would keep the old code.
FROM tools AS pins-cpu
COPY requirements/image-cpu.txt requirements/pins.txt

FROM tools AS pins-milvus
COPY requirements/serve-cpu.txt requirements/pins.txt

FROM tools AS pins-gpu
COPY requirements/serve-gpu.txt requirements/pins.txt

FROM pins-${RUNTIME} AS pins
COPY deploy/image/prune.py ./
RUN uv venv /opt/candor && uv pip install --require-hashes -r requirements/pins.txt && python3 prune.py /opt/candor

FROM tools AS wheel
COPY pyproject.toml README.md LICENSE candor.py ./
COPY uncertainty uncertainty
COPY models models
COPY service service
COPY scripts scripts
RUN uv build --wheel --no-build-isolation --out-dir /wheels

# candor alone, laid out as it lies among the pins.
FROM pins AS code
COPY --from=wheel /wheels /wheels
RUN uv pip install --no-deps --prefix /code /wheels/*.whl

# What the image is made of, as CycloneDX.
FROM pins AS bom
COPY requirements/sbom.txt requirements/
RUN python3 -m venv /opt/bom && uv pip install --python /opt/bom --require-hashes -r requirements/sbom.txt
COPY --from=code /code /opt/candor
RUN /opt/bom/bin/cyclonedx-py environment --output-reproducible --output-file /sbom.json /opt/candor/bin/python

# Python, the libraries it and the pins load, and nothing else.
FROM pins AS system
COPY deploy/image/root.py ./
RUN python3 root.py /opt/candor /root-of-image

FROM scratch AS root-cpu
COPY --from=system /root-of-image /

FROM root-cpu AS root-milvus

# The driver's libraries are put in as the container starts, which is tried with a whole Debian.
FROM ${PYTHON_IMAGE} AS root-gpu
ENV CANDOR_DEVICE=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM root-${RUNTIME} AS runtime
LABEL org.opencontainers.image.title="candor" \
    org.opencontainers.image.description="Image embeddings that say when they are unsure" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=tools --chown=10001:10001 /skeleton/ /
ENV PATH=/opt/candor/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 HOME=/tmp ORT_DISABLE_TELEMETRY=1 \
    CANDOR_HOST=0.0.0.0 CANDOR_PORT=8000 CANDOR_GALLERY=/data/gallery
VOLUME /data/gallery
EXPOSE 8000
USER 10001:10001
WORKDIR /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "/opt/candor/ready.py"]
ENTRYPOINT ["candor", "serve"]
COPY --from=pins /opt/candor /opt/candor
COPY --from=bom /sbom.json /opt/candor/sbom.json
COPY deploy/image/ready.py /opt/candor/
COPY --from=code /code /opt/candor
