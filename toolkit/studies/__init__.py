"""Many runs: what a study is, which ones are shipped, and who carries out its runs."""
