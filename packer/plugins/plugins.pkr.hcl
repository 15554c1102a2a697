# For Packer 1.7 and newer only, which no longer has the QEMU builder built in: `packer init packer/plugins` fetches it
# once. It stands apart from the template because Packer 1.6 (Debian's) refuses a block that it does not know.
packer {
  required_plugins {
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = ">= 1.1.0, < 2.0.0"
    }
  }
}
