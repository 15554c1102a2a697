# Makes any golden image (hpc-base, cloud-base, ...) in a running virtual machine. The recipe decides what goes into it:
# `hyperscaler image packer-files NAME DIR` turns config/images/NAME.yaml into the files and the variables that this
# template takes; see packer/README.md.
#
#   packer build -only=qemu.base      -var-file=DIR/packer.pkrvars.json packer/image.pkr.hcl
#   packer build -only=qemu.installer -var-file=DIR/packer.pkrvars.json packer/image.pkr.hcl

variable "image" {
  description = "name of the golden image, which Packer's output and the process list show"
  type        = string
}

variable "files" {
  description = "directory that packer-files wrote; the disk goes to its directory output-base or output-installer"
  type        = string
}

variable "accelerator" {
  description = "kvm, or tcg on a host without hardware virtualisation"
  type        = string
  default     = "tcg"
}

variable "cpu_model" {
  description = "host with kvm, max with tcg"
  type        = string
  default     = "max"
}

variable "cpus" {
  type    = number
  default = 2
}

variable "memory_mib" {
  type    = number
  default = 2048
}

variable "disk_size" {
  type    = string
  default = "8G"
}

variable "base_disk" {
  description = "golden image to start from"
  type        = string
  default     = "/nonexistent/disk.qcow2"
}

variable "base_sha256" {
  type    = string
  default = "0000000000000000000000000000000000000000000000000000000000000000"
}

variable "base_kernel" {
  type    = string
  default = "/nonexistent/vmlinuz"
}

variable "base_initrd" {
  type    = string
  default = "/nonexistent/initrd.img"
}

variable "base_cmdline" {
  type    = string
  default = ""
}

variable "base_credential" {
  description = "systemd credential that lets Packer's key in, as an SMBIOS string"
  type        = string
  default     = ""
}

variable "ssh_username" {
  type    = string
  default = "labadmin"
}

variable "installer_kernel" {
  description = "Debian's installer, from the package debian-installer-12-netboot-amd64"
  type        = string
  default     = "/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64/linux"
}

variable "installer_initrd" {
  type    = string
  default = "/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64/initrd.gz"
}

variable "installer_cmdline" {
  description = "for the installer's kernel; every other answer is in the preseed file"
  type        = string
  default     = "auto=true priority=critical console=ttyS0 DEBIAN_FRONTEND=text"
}

variable "installer_sha256" {
  type    = string
  default = "none"
}

# From a golden image: no installer runs, and ssh is up within the first minute even under emulation.
source "qemu" "base" {
  iso_url          = var.base_disk
  iso_checksum     = "sha256:${var.base_sha256}"
  disk_image       = true
  disk_size        = var.disk_size
  disk_interface   = "virtio"
  format           = "qcow2"
  skip_compaction  = true
  output_directory = "${var.files}/output-base"
  vm_name          = "disk.qcow2"

  accelerator  = var.accelerator
  machine_type = "q35"
  cpus         = var.cpus
  memory       = var.memory_mib
  headless     = true
  # No boot loader: the kernel is handed over, and with it the key (see docs/user/images.md). The ssh port is
  # forwarded from the loopback only.
  qemuargs = [
    ["-name", "packer-${var.image}"],
    ["-cpu", var.cpu_model],
    ["-kernel", var.base_kernel],
    ["-initrd", var.base_initrd],
    ["-append", var.base_cmdline],
    ["-smbios", "type=11,value=${var.base_credential}"],
    ["-netdev", "user,id=user.0,hostfwd=tcp:127.0.0.1:{{ .SSHHostPort }}-:22"],
    ["-device", "virtio-net-pci,netdev=user.0,romfile="],
    ["-device", "virtio-rng-pci"],
    ["-serial", "file:${var.files}/console-base.log"]
  ]

  boot_wait            = "1s"
  communicator         = "ssh"
  ssh_username         = var.ssh_username
  ssh_private_key_file = "${var.files}/ssh/id"
  ssh_timeout          = "15m"
  shutdown_command     = "sudo /var/tmp/hyperscaler-image/seal poweroff"
  shutdown_timeout     = "10m"
}

# From Debian's installer: it fetches its answers and the same files over HTTP from Packer, installs the packages
# itself and switches the machine off. Nothing logs in, so the system has never run when it is packed up.
source "qemu" "installer" {
  # The builder insists on something to put into the CD drive; the kernel below is what boots.
  iso_url          = var.installer_kernel
  iso_checksum     = var.installer_sha256
  disk_image       = false
  disk_size        = var.disk_size
  disk_interface   = "virtio"
  format           = "qcow2"
  skip_compaction  = true
  output_directory = "${var.files}/output-installer"
  vm_name          = "disk.qcow2"

  accelerator  = var.accelerator
  machine_type = "q35"
  cpus         = var.cpus
  memory       = var.memory_mib
  headless     = true

  # The guest reaches the loopback of this host as {{ .HTTPIP }}; no one else needs to.
  http_bind_address = "127.0.0.1"
  http_directory    = "${var.files}/http"
  qemuargs = [
    ["-name", "packer-${var.image}"],
    ["-cpu", var.cpu_model],
    ["-kernel", var.installer_kernel],
    ["-initrd", var.installer_initrd],
    ["-append", "${var.installer_cmdline} url=http://{{ .HTTPIP }}:{{ .HTTPPort }}/preseed.cfg"],
    ["-no-reboot", ""],
    ["-device", "virtio-net-pci,netdev=user.0,romfile="],
    ["-device", "virtio-rng-pci"],
    ["-serial", "file:${var.files}/console-installer.log"]
  ]

  communicator     = "none"
  boot_wait        = "1s"
  shutdown_timeout = "4h"
}

build {
  sources = ["source.qemu.base", "source.qemu.installer"]

  provisioner "file" {
    only        = ["qemu.base"]
    source      = "${var.files}/http/image-files.tar"
    destination = "/var/tmp/image-files.tar"
  }

  provisioner "shell" {
    only = ["qemu.base"]
    inline = [
      "mkdir -m 700 /var/tmp/hyperscaler-image",
      "tar -xf /var/tmp/image-files.tar -C /var/tmp/hyperscaler-image",
      "rm /var/tmp/image-files.tar",
      "sudo /var/tmp/hyperscaler-image/install"
    ]
  }
}
