"""What is in an image, and can it be trusted? Bills of materials, signatures, known vulnerabilities."""
