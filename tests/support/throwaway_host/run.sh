#!/bin/sh
# Runs inside a guest that is thrown away, from a disk at /mnt: prepares the machine as a user would, and puts it back.
# Every command's output and exit status go to /mnt/out, for the test to judge.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PYTHONPATH=/mnt/program:/mnt/site HYPERSCALER_HOME=/var/lib/hyperscaler LC_ALL=C.UTF-8
export DEBIAN_FRONTEND=noninteractive
out=/mnt/out

keep() { # NAME COMMAND...: output, messages and exit status of a command
  name=$1
  shift
  cut -d' ' -f1 /proc/uptime >"$out/$name.began"
  "$@" >"$out/$name" 2>"$out/$name.err"
  echo $? >"$out/$name.rc"
}
prepare() { python3 -m emulator.cli.main host prepare --gpus --user ada --yes --json; }
snapshot() { keep "$1" python3 /mnt/snapshot.py; }

# The machine as it is before anybody prepares it: GRUB with a configuration, an initramfs of few modules (so that
# renewing it takes seconds), an ordinary user, libvirt's groups, a time service that is off.
systemctl start basic.target # what an image does at its first boot is done, such as making host keys
keep setup dpkg --install /mnt/debs/*.deb
mkdir -p /boot/grub
echo '# as it was' >/boot/grub/grub.cfg
printf 'MODULES=list\nCOMPRESS=gzip\n' >/etc/initramfs-tools/conf.d/few
kernel=$(ls /lib/modules)
echo 'as it was' >"/boot/initrd.img-$kernel"
mkdir -p /var/lib/initramfs-tools
sha1sum "/boot/initrd.img-$kernel" >"/var/lib/initramfs-tools/$kernel"
useradd --create-home ada
groupadd --force --system kvm
groupadd --force --system libvirt
cp /bin/sleep /usr/sbin/chronyd
printf '[Service]\nExecStart=/usr/sbin/chronyd infinity\n[Install]\nWantedBy=multi-user.target\n' \
  >/usr/lib/systemd/system/chrony.service
systemctl daemon-reload
echo 'deb [trusted=yes] file:/mnt/repo ./' >/etc/apt/sources.list.d/stand-ins.list

snapshot before
keep first prepare # no package can be had yet
mv /mnt/repo.later /mnt/repo
keep second prepare
snapshot prepared
keep grub cat /boot/grub/grub.cfg
keep initramfs lsinitramfs "/boot/initrd.img-$kernel"
keep third prepare
snapshot again
keep restore python3 -m emulator.cli.main host restore --yes --json
snapshot restored
keep initramfs-restored lsinitramfs "/boot/initrd.img-$kernel"
cut -d' ' -f1 /proc/uptime >"$out/ended"
