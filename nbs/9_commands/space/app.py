"""The app as a Space: this file and requirements.txt are all it needs."""
from vision_unlearning.running.app import build_app, launch_app

demo = build_app()

if __name__ == "__main__": launch_app(demo, host=None)
