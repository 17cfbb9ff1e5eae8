# docker build -t wsss .
# docker run --rm --gpus all --shm-size 8g --user "$(id -u):$(id -g)" -v "$PWD":/work wsss doctor
FROM python:3.11-slim
COPY . /opt/wsss
RUN pip install --no-cache-dir "/opt/wsss[lite0]" && mkdir -m 777 /home/user
ENV HOME=/home/user
USER 1000
WORKDIR /work
ENTRYPOINT ["wsss"]
