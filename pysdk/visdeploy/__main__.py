from visdeploy.cli import main

main()
