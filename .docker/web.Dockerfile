# Web, sweep and migrations: no engine, no TensorFlow. Build from the project's root: docker build -f .docker/web.Dockerfile .
FROM python:3.12-slim
WORKDIR /opt/ctbatch
COPY .lock/runtime.txt .docker/lock-without ./
RUN ./lock-without runtime.txt tensorflow keras nncf openvino openvino-telemetry scipy scikit-learn libclang grpcio \
        matplotlib seaborn pandas fonttools \
        > web.txt \
    && pip install --no-cache-dir --require-hashes --no-deps -r web.txt
COPY pyproject.toml README.md LICENSE ./
COPY db db
COPY worker worker
COPY training training
COPY web web
COPY cli cli
RUN pip install --no-deps --no-build-isolation --no-cache-dir -e .

# Named volumes take the owner of the folder that they are mounted on.
RUN useradd --uid 1000 --no-create-home --home-dir /var/lib/ctbatch ctbatch \
    && install -d -o 1000 -g 1000 -m 0700 /var/lib/ctbatch /files
USER 1000:1000
VOLUME /var/lib/ctbatch
ENV CTBATCH_HOME=/var/lib/ctbatch PYTHONUNBUFFERED=1
WORKDIR /var/lib/ctbatch
ENTRYPOINT ["ctbatch"]
CMD ["worker", "web"]
