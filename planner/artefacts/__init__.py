"""What starts a plan: commands, configurations and manifests, each valid for the plan's LMDeploy version."""
