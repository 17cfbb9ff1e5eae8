# docker build -t wsss . && docker run --rm -v "$PWD":/work wsss doctor
FROM python:3.11-slim
COPY . /opt/wsss
RUN pip install --no-cache-dir /opt/wsss && useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["wsss"]
