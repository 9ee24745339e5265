"""Methods of uncertainty estimation behind a backbone, one module each; `registry` lists them."""
