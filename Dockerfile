# Two targets: `cpu` (the default) and `gpu` (brings its own CUDA libraries; needs only the driver on the host).
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim

FROM ${PYTHON_IMAGE} AS tools
WORKDIR /src
COPY requirements/build.txt requirements/
RUN python3 -m venv /opt/tools \
    && /opt/tools/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/build.txt
ENV PATH=/opt/tools/bin:$PATH UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1 VIRTUAL_ENV=/opt/candor

# Pins first, code last: a change of code installs none of the pins again. The wheel is copied, not mounted: Podman 4.3's
# cache does not see what a mount from another stage holds, and would keep the old code.
FROM tools AS pins-cpu
COPY requirements/serve-cpu.txt requirements/
RUN uv venv /opt/candor && uv pip install --require-hashes -r requirements/serve-cpu.txt

FROM tools AS pins-gpu
COPY requirements/serve-gpu.txt requirements/
RUN uv venv /opt/candor && uv pip install --require-hashes -r requirements/serve-gpu.txt

FROM tools AS wheel
COPY pyproject.toml README.md LICENSE candor.py ./
COPY uncertainty uncertainty
COPY models models
COPY service service
COPY scripts scripts
RUN uv build --wheel --no-build-isolation --out-dir /wheels

FROM pins-cpu AS environment-cpu
COPY --from=wheel /wheels /wheels
RUN uv pip install --no-deps /wheels/*.whl

FROM pins-gpu AS environment-gpu
COPY --from=wheel /wheels /wheels
RUN uv pip install --no-deps /wheels/*.whl

FROM ${PYTHON_IMAGE} AS runtime
RUN groupadd --gid 10001 candor \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin candor \
    && install --directory --owner 10001 --group 10001 /data/gallery
ENV PATH=/opt/candor/bin:$PATH PYTHONUNBUFFERED=1 \
    CANDOR_HOST=0.0.0.0 CANDOR_PORT=8000 CANDOR_GALLERY=/data/gallery
VOLUME /data/gallery
EXPOSE 8000
USER 10001:10001
WORKDIR /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; \
        u.urlopen('http://127.0.0.1:' + os.environ['CANDOR_PORT'] + '/readyz', timeout=4)"]
ENTRYPOINT ["candor", "serve"]

FROM runtime AS gpu
ENV CANDOR_DEVICE=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=environment-gpu /opt/candor /opt/candor

FROM runtime AS cpu
COPY --from=environment-cpu /opt/candor /opt/candor
