"""Messages and stubs generated from proto/ by script/generate_pb.py; do not edit."""
