# A bare Debian 12 machine with systemd as PID 1, without the units that only make sense on metal.
ARG BASE
FROM ${BASE}
RUN apt-get update -qq \
 && apt-get install -qq --yes --no-install-recommends systemd systemd-sysv dbus \
 && apt-get clean && rm -rf /var/lib/apt/lists/* \
 && : >/etc/machine-id \
 && systemctl mask systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket \
    systemd-logind.service systemd-modules-load.service systemd-timesyncd.service systemd-remount-fs.service \
    getty.target console-getty.service apt-daily.timer apt-daily-upgrade.timer \
    dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
 && systemctl set-default multi-user.target
ENV container=docker
COPY init /sbin/bare-host-init
STOPSIGNAL SIGRTMIN+3
CMD ["/sbin/bare-host-init"]
