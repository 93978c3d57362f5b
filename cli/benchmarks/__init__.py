"""What `ctbatch bench` measures, one module a benchmark."""
