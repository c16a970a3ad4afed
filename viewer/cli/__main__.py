from viewer.cli.main import main

main()
