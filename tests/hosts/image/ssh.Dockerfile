# A bare host (BASE: with systemd or without) as one rents it: sshd, and a person who may become root.
ARG BASE
FROM ${BASE}
RUN apt-get update -qq \
 && apt-get install -qq --yes --no-install-recommends openssh-server \
 && apt-get clean && rm -rf /var/lib/apt/lists/* \
 && rm -f /etc/ssh/ssh_host_* \
 && useradd --create-home --shell /bin/bash op \
 && echo 'op ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/op \
 && mkdir -p /etc/systemd/system/ssh.service.d \
 && printf '[Service]\nExecStartPre=\nExecStartPre=/sbin/make-host-key\nExecStartPre=/usr/sbin/sshd -t\n' \
    >/etc/systemd/system/ssh.service.d/host-key.conf \
 && printf '#!/bin/sh\n[ -e /etc/ssh/ssh_host_ed25519_key ] || exec ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key\n' \
    >/sbin/make-host-key \
 && chmod 755 /sbin/make-host-key \
 && printf 'HostKey /etc/ssh/ssh_host_ed25519_key\nPasswordAuthentication no\n' >/etc/ssh/sshd_config.d/host.conf \
 && if [ -x /lib/systemd/systemd ]; then systemctl enable ssh; fi
