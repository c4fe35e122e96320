# `make fit` in a container, on the tables of the folder one stands in:
#
#   docker build -t lightning-mods .
#   docker run --rm --user "$(id -u)" -v "$PWD:/data" lightning-mods
#   docker run --rm --user "$(id -u)" -v "$PWD:/data" lightning-mods lightning_mods.fit --data.path=my.csv --data.target=y
#
# The Python series that the tests run on. `slim` has no compiler, and none is needed: every dependency comes as a wheel.
FROM python:3.11.14-slim-bookworm

# One thread: on a small network a second one costs more than it gives. What libraries keep for themselves goes where
# any user may write, whoever `--user` names.
ENV OMP_NUM_THREADS=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    XDG_CACHE_HOME=/tmp/cache \
    USER=trainer

# No root and no password: what runs here reads files that a stranger may have written.
RUN useradd --uid 1000 --create-home trainer && install --directory --owner=trainer /data

WORKDIR /opt/lightning-mods
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY callbacks callbacks
COPY datamodules datamodules
COPY lightning_mods lightning_mods
# The README's line, then bytecode for users who may not write here. As it stands the image holds torch with CUDA;
# --build-arg PIP_EXTRA_INDEX_URL=ADDRESS of torch's CPU wheels leaves gigabytes out. The address stays in the image's
# history: none with a password.
ARG PIP_EXTRA_INDEX_URL=
RUN pip install -c constraints.txt -e . && python -m compileall -q callbacks datamodules lightning_mods

WORKDIR /data
USER 1000
ENTRYPOINT ["python", "-m"]
CMD ["lightning_mods.fit"]
