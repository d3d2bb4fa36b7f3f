"""What runs in LMDeploy's Python, where torch is: it imports nothing else of lmplan, and nothing that lmplan needs."""
