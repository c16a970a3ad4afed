from viewer.mcp.main import main

main()
