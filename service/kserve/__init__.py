"""The Open Inference Protocol (KServe v2) with Triton's binary extension: what is asked, and what is answered."""
